"""Steppers of mechanical systems: leapfrog, compositions of symmetric steppers, and Gauss's implicit ones.

Source: Hairer, Lubich & Wanner, Geometric Numerical Integration (2006), sec. I.1.4, II.4 and II.1.3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eom.dynamics.composition_order import composes
from eom.dynamics.energy_law import energy_law
from eom.dynamics.field import State, VectorField, rate_of
from eom.dynamics.implicit import differentiable, place, solve
from eom.dynamics.stepper import Stepper, require_stepper
from eom.errors import SettingError, StepError

Part = Callable[[Tensor], Tensor]  # [..., n] -> [..., n]


@dataclass(frozen=True)
class Separable:
    """q' = ``velocity`` (p), p' = ``force`` (q), of H = T(p) + V(q), for states (q, p) [..., 2 n]: a field."""

    velocity: Part
    force: Part

    def __call__(self, t: float, y: State) -> State:
        q, p = y.chunk(2, -1)
        return torch.cat([self.velocity(p), self.force(q)], -1)


@dataclass(frozen=True)
class Leapfrog:
    """p <- p + (h/2) f(q);  q <- q + h v(p);  p <- p + (h/2) f(q), of order 2; the field is ``Separable``."""

    order = 2
    symmetric = True

    def init(self, y: State) -> None:
        return None

    def step(self, field: Separable, t: float, h: float, y: State, carry: Any) -> tuple[State, None]:
        if not hasattr(field, "velocity") or y.shape[-1] % 2:
            raise SettingError(
                f"Leapfrog was given a {type(field).__name__} and {y.shape[-1]} entries, expected Separable(velocity, "
                "force), and positions and as many momenta"
            )
        q, p = y.chunk(2, -1)
        p = p + h / 2 * rate_of(field.force, q)
        q = q + h * rate_of(field.velocity, p)
        p = p + h / 2 * rate_of(field.force, q)
        return torch.cat([q, p], -1), None


@dataclass(frozen=True)
class Composed:
    """Steps of w_i h by one symmetric stepper of order 2, for weights that raise its order.

    Those that read the same backwards make a symmetric one. Negative weights are steps back in time: for systems that
    conserve, not for such that dissipate.

    Raises:
        SettingError: no symmetric stepper; weights of another order; in the first step, steps back in time of a
            structure that does not conserve.
    """

    stepper: Stepper
    weights: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        require_stepper(self.stepper, "one of order 2, such as Leapfrog()")
        if not getattr(self.stepper, "symmetric", False):
            raise SettingError(
                f"{self.stepper} is not symmetric: compose Leapfrog(), Gauss or another discrete gradient; a stepper "
                "or a rule of your own says that it is by symmetric = True"
            )
        numbers = type(self.order) is int and isinstance(self.weights, tuple | list) and len(self.weights)
        numbers = numbers and all(isinstance(w, int | float) and math.isfinite(w) for w in self.weights)
        if not (numbers and 0 < self.order <= 10 and composes(self.weights, self.order)):
            raise SettingError(
                f"the weights {self.weights} do not give order {self.order}, expected a sum of 1, and errors that "
                "cancel up to that order, one of 1 to 10: take weights that are published for it, in 14 digits or more"
            )

    @property
    def symmetric(self) -> bool:
        return tuple(self.weights) == tuple(reversed(self.weights))

    def init(self, y: State) -> Any:
        return False, self.stepper.init(y)

    def step(self, field: Any, t: float, h: float, y: State, carry: Any) -> tuple[State, Any]:
        checked, inner = carry
        backwards = not checked and min(self.weights) < 0 and hasattr(field, "structure")
        if backwards and energy_law(field.structure, y.shape[-1]) != "conserves":
            raise SettingError(
                "the structure G is not skew, and this composition steps back in time, where energy rises that falls "
                f"forwards: take {self.stepper} by itself, with smaller steps"
            )
        for w in self.weights:
            y, inner = self.stepper.step(field, t, w * h, y, inner)
            t += w * h
        return y, (True, inner)


def yoshida(stepper: Stepper) -> Composed:
    """Order 4 from a symmetric stepper of order 2: w, 1 - 2 w, w with w = 1 / (2 - 2^(1/3))."""
    w = 1 / (2 - 2 ** (1 / 3))
    return Composed(stepper, (w, 1 - 2 * w, w), 4)


def suzuki(stepper: Stepper) -> Composed:
    """Order 4 in five steps, with smaller errors: w, w, 1 - 4 w, w, w with w = 1 / (4 - 4^(1/3))."""
    w = 1 / (4 - 4 ** (1 / 3))
    return Composed(stepper, (w, w, 1 - 4 * w, w, w), 4)


@dataclass(frozen=True)
class Gauss:
    """Gauss-Legendre Runge-Kutta: implicit, symplectic, symmetric, quadratic invariants kept; of order 2 ``stages``."""

    stages: int = 2
    symmetric = True

    def __post_init__(self) -> None:
        if self.stages not in TABLEAUS:
            raise SettingError(f"stages is {self.stages!r}, expected 1 (the implicit midpoint) or 2")

    @property
    def order(self) -> int:
        return 2 * self.stages

    def init(self, y: State) -> None:
        return None

    def step(self, field: VectorField, t: float, h: float, y: State, carry: Any) -> tuple[State, None]:
        a, b = (torch.tensor(x, dtype=y.dtype, device=y.device) for x in TABLEAUS[self.stages])
        rows, times = y.reshape(-1, y.shape[-1]), [t + h * c for c in a.sum(1).tolist()]
        each = h[:, None] if isinstance(h, Tensor) and h.ndim else h  # a step of its own for each row, [b, 1]
        grid = getattr(field, "grid", ())  # of an EnergySystem

        def slopes(at: Tensor) -> Tensor:  # [b, s n] -> [b, s, n]
            parts = zip(times, at.view(len(rows), self.stages, -1).unbind(1), strict=True)
            return torch.stack([rate_of(partial(field, s), x) for s, x in parts], 1)

        def from_(before: Tensor, at: Tensor) -> Tensor:
            return (before[:, None] + each * torch.einsum("ij,bjn->bin", a, slopes(at))).flatten(1)

        g, still = (partial(from_, x) for x in (rows, rows.detach()))
        try:
            solved = solve(g, rows.repeat(1, self.stages), grid=grid)
        except StepError as failure:
            raise StepError(f"{place(t, h)}, {failure}") from failure
        stages = differentiable(g, still, solved.u, grid)
        return (rows + h * torch.einsum("j,bjn->bn", b, slopes(stages))).view(y.shape), None


def ImplicitMidpoint() -> Gauss:
    """u = y + h f((u + y) / 2), of order 2."""
    return Gauss(1)


TABLEAUS = {
    1: ([[0.5]], [1.0]),
    2: ([[0.25, 0.25 - math.sqrt(3) / 6], [0.25 + math.sqrt(3) / 6, 0.25]], [0.5, 0.5]),
}
