"""Solutions of u = g(u) for a batch of states: Anderson's mixing of fixed points, then Newton's method.

Newton's is tried where mixing does not converge, with matrices for small states and Krylov spaces for large ones. On a
periodic grid the equation is loosened before (``periodic``). Gradients flow through the solution by the implicit
function theorem, u' = (1 - g'(u))^-1 g', with one transposed solve.
"""

import math
from functools import partial

import torch
from torch import Tensor

from eom.calculus.modes import require_no_tangent
from eom.dynamics.iterations import ROUNDING, Map, Solved, anderson, newton, newton_krylov, sizes_of
from eom.dynamics.periodic import loosened
from eom.errors import SettingError, StepError

PROBES, NOISE = 16, 4.0  # of g's rounding, and times what they show of it that a residual may be
NEARLY = 1e-3  # a residual to which a tolerance may be loosened
LARGEST = 2000  # entries of a state for which Newton's method forms a matrix


def solve(
    g: Map, start: Tensor, *, rtol: float | None = None, near: Tensor | None = None, grid: tuple[int, ...] = ()
) -> Solved:
    """u = g(u) for every row of ``start`` [b, n], near it; u carries no gradient.

    Args:
        g: row by row: what it gives for one depends on that one alone. rtol: wanted residual, by default near rounding.
        near: [b, n] u_0, whose entries say how large those of u are; ``start`` by default.
        grid: points along each axis, where a state is n = channels x points of a periodic grid.

    Raises:
        StepError: none of the methods converges; it names the residuals. SettingError: a grid that does not divide n;
            halves of floats.
    """
    if start.dtype not in (torch.float32, torch.float64):
        raise SettingError(f"states are {start.dtype}, expected float32 or float64, with digits to solve by")
    wanted, n = 20 * torch.finfo(start.dtype).eps if rtol is None else rtol, start.shape[-1]
    if n % math.prod(grid):
        raise SettingError(f"a state has {n} entries, expected a multiple of those of the grid {list(grid)}")
    with torch.no_grad():
        g = loosened(g, start, grid) if grid else g
        best = Solved(start, math.inf, 0, "")
        sizes = partial(sizes_of, start if near is None else near, math.prod(grid))
        said = []
        last = ("newton", newton) if n <= LARGEST else ("newton-krylov", newton_krylov)
        for name, method in (("anderson", anderson), last):
            found = method(g, best.u, wanted, sizes)
            calls = best.calls + found.calls
            if found.residual <= (wanted if rtol else ROUNDING * wanted) or (not rtol and is_rounding(g, found)):
                return found._replace(calls=calls)
            said.append(f"{name}: {found.residual:.2g}")
            best = (found if found.residual < best.residual else best)._replace(calls=calls)
    raise StepError(
        f"the implicit equation was not solved to {wanted:.2g} (residuals of {', '.join(said)}): take a smaller step"
        + (", or a looser rtol" if best.residual < NEARLY else "")
    )


def is_rounding(g: Map, found: Solved) -> bool:
    """Is r = |u - g(u)| only the rounding of a g that cancels large numbers?

    Then g(u + d) - 2 g(u) + g(u - d) is as large for some d of |d| = r or 4 r, as g may move by steps of rounding, and
    at 16 r it is not 16 times that, as |d|^2 would be.
    """
    u = found.u
    if not found.residual <= torch.finfo(u.dtype).eps ** 0.5:
        return False
    value = g(u)
    left = (value - u).norm(dim=-1)
    draws, noise = torch.Generator().manual_seed(0), []
    for size in (left, 4 * left, 16 * left):
        steps = [torch.randn(u.shape, generator=draws, dtype=u.dtype).to(u.device) for _ in range(PROBES)]
        steps = [d * (size / d.norm(dim=-1))[:, None] for d in steps]
        noise.append(torch.stack([(g(u + d) - 2 * value + g(u - d)).norm(dim=-1) for d in steps]).amax(0))
    near, far = torch.maximum(*noise[:2]), noise[2]
    return bool(((left <= NOISE * near) & (far <= NOISE * near)).all())


def differentiable(g: Map, still: Map, solved: Tensor, grid: tuple[int, ...] = ()) -> Tensor:
    """``solved`` [b, n], a solution of u = g(u), with the gradient of the solution in all that g depends on.

    The pulled-back weight w of u solves w = w_0 + g'(u)^T w, an equation of the same kind; ``still`` is g of the same
    values without the past that they are of, which each product would go through again.
    """
    if not torch.is_grad_enabled():
        return solved
    at = solved.detach().requires_grad_()
    value = still(at)

    def pulled(weight: Tensor | None) -> Tensor | None:
        if weight is None:  # no gradient comes
            return None
        if torch.is_grad_enabled():
            raise StepError(
                "there are first derivatives through an implicit step, and no second ones: take an explicit step"
            )

        def product(w: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(value, at, w, retain_graph=True, materialize_grads=True, allow_unused=True)
            return weight + pulled

        return solve(product, weight, grid=grid).u

    with torch.enable_grad():  # once more, as a hook on ``value`` would call itself
        out = g(solved.detach())
    if not out.requires_grad:  # g depends on u alone
        return solved
    require_no_tangent(out)
    if value.requires_grad:
        out.register_hook(pulled)
    return out


def place(t: float | Tensor, h: float | Tensor) -> str:
    """Where a step failed; h may be a step [b, 1] of each member's own, and t their times."""
    return f"at time {float(t if isinstance(t, float | int) else t.max()):.4g} with h = " + (
        f"{float(h.min()):g} to {float(h.max()):g}" if isinstance(h, Tensor) else f"{h:g}"
    )
