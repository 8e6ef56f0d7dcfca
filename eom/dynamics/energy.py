"""Systems that are known by their energy, u' = G grad H(u), and steppers that keep it: discrete gradients.

G skew: H is conserved, by the flow and by u_1 = u_0 + h G DG(u_1, u_0) exactly, as H(u_1) - H(u_0) = DG . (u_1 - u_0) =
h DG . G DG = 0. G negative semidefinite: H falls. Those that are symmetric are of second order.

Sources: Gonzalez, J. Nonlinear Sci. 6, 1996 (the midpoint one); McLachlan, Quispel & Robidoux, Phil. Trans. R. Soc. A
357, 1999 (mean value; Itoh-Abe).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eom.calculus.discrete import discrete_gradient
from eom.calculus.exact import exact
from eom.calculus.modes import evaluated, require_derivatives
from eom.dynamics.field import State, rate_of, require_function
from eom.dynamics.implicit import differentiable, place, solve
from eom.dynamics.iterations import Solved
from eom.dynamics.stepper import require_tolerance
from eom.errors import DataError, DiscreteError, SettingError, StepError

Energy = Callable[[State], Tensor]  # [b, n] -> [b]
Structure = Callable[[State], State]  # g [b, n] -> G g [b, n], linear
Rule = Callable[[Energy, State, State], State]  # (H, u, v) -> DG(u, v) [b, n]
CALM = 0.25  # of a step, that half of it may change it by, for an explicit one to be near


def numbers(energy: Energy, u: State, name: str = "the energy") -> Tensor:
    """[...] H(u) of states [..., n], for an energy [b, n] -> [b] or [b, 1].

    Raises:
        DataError: the energy is not a number for each state, or takes other floats.
    """
    if u.ndim != 2:  # an energy may count its axes from the first
        return numbers(energy, u.reshape(-1, u.shape[-1]), name).view(u.shape[:-1])
    found = evaluated(energy, u)
    shape = found.shape if isinstance(found, Tensor) else None
    if shape is not None and not found.is_floating_point():
        raise DataError(f"{name} of states {list(u.shape)} is {found.dtype}, expected a real number for each state")
    if shape == u.shape[:1]:
        return found
    if shape != (len(u), 1):
        came = type(found).__name__ if shape is None else list(shape)
        raise DataError(
            f"{name} of states {list(u.shape)} is {came}, expected {[len(u)]}: a number for each state, by torch "
            "functions"
        )
    return found[:, 0]


def gradient(energy: Energy, u: State) -> State:
    """[b, n] grad H(u), that can be differentiated where gradients are recorded, through fused operations as well."""
    train = torch.is_grad_enabled()
    if train and torch.compiler.is_compiling():  # compiled code has no second derivatives
        plain: Any = torch.compiler.disable(gradient)
        return plain(energy, u)
    known = train and u.requires_grad
    require_derivatives(u)
    with torch.enable_grad(), exact(2) if train else nullcontext():
        at = u if known else u.detach().requires_grad_()
        total = numbers(energy, at).sum()
        (found,) = torch.autograd.grad(total, at, create_graph=train)
    return found


@dataclass(frozen=True)
class EnergySystem:
    """u' = G grad H(u) for states [b, n]; called, it is the vector field.

    ``grid`` are the points along each axis, where n = channels x points of a periodic grid and the equation is the same
    everywhere on it: implicit steps may then be large.
    """

    energy: Energy
    structure: Structure
    grid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_function(energy=self.energy, structure=self.structure)

    def __call__(self, t: float, u: State) -> State:
        return self.structure(gradient(self.energy, u))


def gonzalez(energy: Energy, u: State, v: State) -> State:
    """grad H(m) + (H(u) - H(v) - grad H(m) . d) d / |d|^2, m the midpoint and d = u - v; all entries see each other.

    It subtracts energies: what cancels in H, as in 1 - cos q at small q, costs it digits that the automatic rule keeps.
    """
    d, middle = u - v, gradient(energy, (u + v) / 2)
    square = d.square().sum(-1)
    off = numbers(energy, u) - numbers(energy, v) - (middle * d).sum(-1)
    far = square > (1e3 * torch.finfo(d.dtype).eps) ** 2 * (u.square() + v.square()).sum(-1)
    return middle + (torch.where(far, off, 0.0) / torch.where(far, square, 1.0))[..., None] * d


@dataclass(frozen=True)
class MeanValue:
    """The mean of grad H between v and u, by Gauss's rule: exact where H is of degree 2 ``points`` or less."""

    points: int = 4
    symmetric = True

    def __post_init__(self) -> None:
        if type(self.points) is not int or self.points < 1:
            raise SettingError(f"points is {self.points!r}, expected a whole number of 1 or more")

    def __call__(self, energy: Energy, u: State, v: State) -> State:
        x, w = np.polynomial.legendre.leggauss(self.points)
        parts = [b / 2 * gradient(energy, v + (1 + a) / 2 * (u - v)) for a, b in zip(x, w, strict=True)]
        return torch.stack(parts).sum(0)


def itoh_abe(energy: Energy, u: State, v: State) -> State:
    """Entry i is the divided difference of H from v_i to u_i, with u before it and v behind: steps of order 1.

    It subtracts energies, as ``gonzalez``.
    """
    found, here, eps = [], v, torch.finfo(u.dtype).eps
    low = numbers(energy, here)
    for i in range(u.shape[-1]):
        here = torch.cat([u[..., : i + 1], v[..., i + 1 :]], -1)
        high, gap = numbers(energy, here), u[..., i] - v[..., i]
        slope = gradient(energy, torch.cat([u[..., :i], (u + v)[..., i : i + 1] / 2, v[..., i + 1 :]], -1))[..., i]
        off, rounding = high - low - slope * gap, 4 * eps * (high.abs() + low.abs())  # as of the automatic rule
        near = (gap.abs() <= eps**0.4 * (u[..., i].abs() + v[..., i].abs())) | (off.abs() <= rounding)
        found.append(torch.where(near, slope, (high - low) / torch.where(near, 1.0, gap)))
        low = high
    return torch.stack(found, -1)


def predicted(field: EnergySystem, h: float, u: State) -> State:
    """u + h f(u + (h / 2) f(u)), where to look for the next state, or u itself where such a step would run away."""
    with torch.no_grad():
        first = h * rate_of(field.structure, gradient(field.energy, u))
        second = h * field.structure(gradient(field.energy, u + first / 2))
        calm = (second - first).norm(dim=-1, keepdim=True) <= CALM * first.norm(dim=-1, keepdim=True)
    return torch.where(calm, u + second, u)


@dataclass(frozen=True)
class DiscreteGradient:
    """u_1 = u_0 + h G DG(u_1, u_0) for an ``EnergySystem``; H is conserved or falls as G says, to rounding.

    ``rule`` is a discrete gradient: the automatic one by default, ``gonzalez`` or ``MeanValue(k)``, all of order 2, or
    ``itoh_abe``, of order 1; for skew G ``yoshida(DiscreteGradient())`` is of order 4. Gradients flow through the step.
    ``rtol`` is the residual of the implicit equation, near rounding by default: energy is kept as well as that.

    Raises:
        StepError: the implicit equation is not solved at this step size; it names time, residuals and what to do.
    """

    rule: Rule = discrete_gradient
    rtol: float | None = None

    def __post_init__(self) -> None:
        require_function(rule=self.rule)
        if self.rtol is not None:
            require_tolerance(rtol=self.rtol)

    @property
    def symmetric(self) -> bool:
        """DG(u, v) = DG(v, u)? A rule of the user's own says so by an attribute."""
        return self.rule in (discrete_gradient, gonzalez) or getattr(self.rule, "symmetric", False)

    def init(self, y: State) -> None:
        return None

    def step(self, field: EnergySystem, t: float, h: float, y: State, carry: Any) -> tuple[State, None]:
        if not hasattr(field, "structure"):
            raise SettingError(
                f"a discrete gradient was given a {type(field).__name__}, expected EnergySystem(H, G), or such as has "
                "an energy and a structure; for others take Gauss(2) or RK4()"
            )
        rows, grid = y.reshape(-1, y.shape[-1]), getattr(field, "grid", ())

        def from_(before: State, u: State) -> State:
            try:
                return before + h * rate_of(field.structure, self.rule(field.energy, u, before))
            except DiscreteError:
                if bool(numbers(field.energy, u).isfinite().all()):
                    raise
                return torch.full_like(before, torch.nan)  # of an iterate that has run away

        g, still = (partial(from_, x) for x in (rows, rows.detach()))

        try:
            solved: Solved = solve(g, predicted(field, h, rows), rtol=self.rtol, near=rows, grid=grid)
        except StepError as failure:
            raise StepError(f"{place(t, h)}, {failure}") from failure
        return differentiable(g, still, solved.u, grid).view(y.shape), None
