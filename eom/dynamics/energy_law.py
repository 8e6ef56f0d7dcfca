"""Whether a structure G of u' = G grad H(u) keeps the energy or lets it fall: dH/dt = grad H . G grad H."""

import math
from functools import partial

import torch
from torch import Tensor

from eom.calculus.spectrum import lanczos
from eom.dynamics.energy import Structure
from eom.dynamics.field import State
from eom.errors import SettingError


def energy_law(structure: Structure, size: int) -> str | None:
    """ "conserves" where G is skew, "dissipates" where it is negative semidefinite, None where it is neither.

    By the eigenvalues of its symmetric part, to rounding; beyond 600 entries by those that Lanczos finds in 200 steps:
    one that rises by 1e-7 of G beside others that fall by 1e-4 of it is then missed. Numbers of a module are taken to
    float64. That G is linear is tried on gradients of sizes 1e-4 to 1e4.

    Raises:
        SettingError: a structure of states of another size, not linear, or beyond 600 entries without derivatives.
    """
    apply = partial(_applied, structure)
    with torch.no_grad():
        g = torch.randn(32, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        g *= torch.logspace(-4, 4, 32)[:, None]
        moved = apply(g)
        off, parts = apply(g[1:] - g[:-1]) - moved.diff(dim=0), moved[1:].abs() + moved[:-1].abs()
        if not bool((off.abs().amax(1) <= 1e-4 * parts.amax(1)).all()):
            raise SettingError("the structure G is not linear: expected a function g -> G g of the gradient")
        if size <= 600:
            moved = apply(torch.eye(size, dtype=torch.float64))  # G^T
            values, scale = torch.linalg.eigvalsh((moved + moved.T) / 2), float(moved.abs().sum(0).max())
        else:
            scale, start = float((moved.norm(dim=-1) / g.norm(dim=-1)).max()), g[0].to(moved)
            most = lanczos(lambda v: _symmetric(apply, v), start, steps=200, room=200).eigenvalues
            least = -lanczos(lambda v: -_symmetric(apply, v), start).eigenvalues
            waves = torch.cos(2 * math.pi / size * torch.outer(torch.arange(9), torch.arange(size))).to(moved)
            slow = (waves * apply(waves)).sum(-1) / waves.square().sum(-1)  # that Lanczos finds late
            values = torch.cat([most, least, slow])
    rounding = 100 * torch.finfo(moved.dtype).eps * scale
    if float(values.abs().max()) <= rounding:
        return "conserves"
    return "dissipates" if float(values.max()) <= rounding else None


def _symmetric(apply: Structure, v: Tensor) -> Tensor:
    """[n] (G + G^T) v / 2."""
    with torch.enable_grad():
        at = v.detach()[None].requires_grad_()
        moved = apply(at)
        try:
            (pulled,) = torch.autograd.grad(moved, at, v[None])
        except RuntimeError as failure:
            raise SettingError(
                f"the structure G of {len(v)} entries has no derivative, by which its transpose is known: {failure}. "
                "Compute it by torch's functions, without detach()"
            ) from failure
    return ((moved + pulled) / 2)[0].detach()


def _applied(structure: Structure, g: State) -> State:
    """G g, in float32 where the structure of a user's own holds such numbers."""
    try:
        found = _in_double(structure, g) if g.dtype is torch.float64 else structure(g)
    except RuntimeError as failure:
        if g.dtype is torch.float32:
            raise SettingError(f"the structure G does not take gradients {list(g.shape)}: {failure}") from failure
        return _applied(structure, g.float())
    shape = found.shape if isinstance(found, Tensor) else None
    if shape != g.shape:
        came = f"a {type(found).__name__}" if shape is None else list(shape)
        raise SettingError(f"the structure G maps {list(g.shape)} to {came}, expected the same")
    return found


def _in_double(structure: Structure, g: State) -> State:
    """G g with the numbers of a module in float64."""
    if not isinstance(structure, torch.nn.Module):
        return structure(g)
    own = (*structure.named_parameters(), *structure.named_buffers())
    wide = {name: x.double() for name, x in own if x.is_floating_point()}
    return torch.func.functional_call(structure, wide, (g,))
