"""Modified energies: what a symplectic march conserves, and what a model that is trained through one learns.

A march with step h on H follows, beyond all powers kept, the flow of H~ = H + h^2 H_2 + h^4 H_4. The other way round:
a model H^ whose step fits data of the flow of H has H as its modified energy, H^ = H - h^2 H_2 + ....

Leapfrog on T(p) + V(q), with D_T = T_p . d/dq and D_V = -V_q . d/dp, by the symmetric formula of Baker, Campbell and
Hausdorff (words in their order: TTV is D_T D_T V):

    H_2 = TTV / 12 + VTV / 24,
    H_4 = -TTTTV / 720 + VTTTV / 360 - TVTTV / 120 - TVVTV / 360 - VVTTV / 480 - 7 VVVTV / 5760.

The implicit midpoint on u' = f(u) = G grad H(u), with g = f'f:

    H_2 = -H''(f, f) / 24,        H_4 = (7 H''''(f, f, f, f) + 12 H'''(f, f, g) + 36 H''(g, g)) / 5760,
    H^  = H + h^2 H''(f, f) / 24 + h^4 (H''''(f, f, f, f) - 4 H'''(f, f, g) + 8 H''(g, g)) / 1920.

Source: Hairer, Lubich & Wanner, Geometric Numerical Integration (2006), sec. III.4, III.5 and IX.3-9, for the method;
the coefficients of h^4 were derived here (words of the exponential series; fits to the recursion of sec. IX.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from eom.calculus.brackets import Energy, chains, derivative, motion, perturbed, slope
from eom.calculus.lie import directional
from eom.dynamics.energy import EnergySystem, numbers
from eom.dynamics.energy_law import energy_law
from eom.dynamics.field import State
from eom.dynamics.symplectic import Gauss, Leapfrog
from eom.errors import SettingError
from eom.physics.laws import in_floats_of
from eom.physics.limits import require_halves
from eom.physics.systems import rotate

SECOND = {"TTV": 1 / 12, "VTV": 1 / 24}
FOURTH = {
    "TTTTV": -1 / 720, "VTTTV": 1 / 360, "TVTTV": -1 / 120, "TVVTV": -1 / 360, "VVTTV": -1 / 480, "VVVTV": -7 / 5760,
}  # fmt: skip
MIDPOINT = (-1 / 24, (7 / 5760, 12 / 5760, 36 / 5760))  # of H''(f,f); of H''''(f,f,f,f), H'''(f,f,g), H''(g,g)
INVERSE = (1 / 24, (1 / 1920, -1 / 480, 1 / 240))
SEPARABLE = 1e-7  # share of mixed second derivatives that rounding may leave


@dataclass(frozen=True)
class Split:
    """H(q, p) = T(p) + V(q), of T and V that are [b, n] -> [b] or [b, 1] each; a field for ``Leapfrog``."""

    kinetic: Energy
    potential: Energy

    def __post_init__(self) -> None:
        for name in ("kinetic", "potential"):
            object.__setattr__(self, name, partial(numbers, getattr(self, name)))

    @property
    def velocity(self) -> Callable[[Tensor], Tensor]:
        return slope(self.kinetic)

    @property
    def force(self) -> Callable[[Tensor], Tensor]:
        pull = slope(self.potential)
        return lambda q: -pull(q)

    def energy(self, u: State) -> Tensor:
        q, p = _halves(u)
        return self.kinetic(p) + self.potential(q)

    def structure(self, g: State) -> State:
        return rotate(g)

    def __call__(self, t: float, u: State) -> State:
        q, p = u.chunk(2, -1)
        return torch.cat([self.velocity(p), self.force(q)], -1)


def modified_energy(field: Any, stepper: Leapfrog | Gauss, h: float, order: int = 4) -> Energy:
    """H + h^2 H_2 + h^4 H_4, to h^``order``: what a march of ``stepper`` by ``h`` conserves up to h^(order + 2).

    Args:
        field: ``Split(T, V)`` or a ``symplectic_network``'s field for ``Leapfrog()``; ``EnergySystem(H, G)``, a model's
            field or those for ``ImplicitMidpoint()``, where G is skew and does not depend on u. Energies are
            [b, ...] -> [b] or [b, 1], smooth, networks too.
        order: 0, 2 or 4. The series does not converge: more terms help while h is small against the periods.

    Returns:
        [b, n] -> [b].

    Raises:
        SettingError: another order or stepper, a step that is not a number, a field that the stepper does not take;
            when called, a structure that is not skew, or states without as many momenta.
    """
    split = _checked(field, stepper, h, order)
    found = (
        _sum(split.energy, h, order, _words(split, SECOND), _words(split, FOURTH))
        if split
        else _midpoint(field, h, order, MIDPOINT)
    )
    return lambda u: found(in_floats_of(field, u))


def learned_energy(
    field: Any, stepper: Leapfrog | Gauss, h: float, order: int = 4, *, at: State | None = None
) -> Split | EnergySystem:
    """The system H^ of which one step of ``stepper`` is the flow of ``field`` over ``h``, to h^``order``.

    A model that can be H^ and is trained through the stepper on data at distance ``h`` comes to it, not to H. Through
    the implicit midpoint every H has one; through leapfrog only where H_2 is again T + V, as for quadratic T and V.

    Args:
        at: for ``Leapfrog``, states [b, 2 n] of the data, on which H_2 is checked to be separable.

    Raises:
        SettingError: as ``modified_energy``; through leapfrog, a correction that no T + V can be.
    """
    split = _checked(field, stepper, h, order)
    if not split:
        found = _midpoint(field, h, order, INVERSE)
        return EnergySystem(lambda u: found(in_floats_of(field, u)), field.structure)
    if order == 0:
        return split
    if at is None:
        raise SettingError("through leapfrog the learned energy depends on where the data lie: give states as `at`")
    share = mixing(_words(split, SECOND), at)
    if not share <= SEPARABLE:
        raise SettingError(
            f"{share:.2g} of the second derivatives of the h^2 term mix q and p, so that no T(p) + V(q) has this flow "
            "as its leapfrog: the fit keeps an error of h^2. Train a general H through ImplicitMidpoint() instead"
        )
    return _learned_split(split, h, order)


def mixing(energy: Energy, at: State) -> float:
    """Root mean square of d^2 E / dq dp over that of all second derivatives, on ``at`` [b, 2 n]: 0 for T(p) + V(q)."""
    require_halves(at.shape[-1])
    pull, n = slope(partial(numbers, energy)), at.shape[-1] // 2
    unit = torch.eye(2 * n, dtype=at.dtype, device=at.device)
    rows = torch.stack([directional(pull, at, e.expand_as(at)) for e in unit], 1)  # [b, 2 n, 2 n]
    whole = float(rows.square().sum())
    mixed = 2 * float(rows[:, :n, n:].square().sum())
    return (mixed / whole) ** 0.5 if whole else 0.0


def _words(split: Split, weights: dict[str, float]) -> Energy:
    chain = chains(weights, split.velocity, split.force)
    return lambda u: chain(*_halves(u))


def _halves(u: State) -> tuple[State, State]:
    require_halves(u.shape[-1])
    return u.chunk(2, -1)  # type: ignore[return-value] - two of them


def _sum(energy: Energy, h: float, order: int, second: Energy, fourth: Energy) -> Energy:
    def total(u: State) -> Tensor:
        found = energy(u)
        if order >= 2:
            found = found + h**2 * second(u)
        return found + h**4 * fourth(u) if order == 4 else found

    return total


def _midpoint(field: Any, h: float, order: int, weights: Any) -> Energy:
    energy = partial(numbers, field.energy)
    law, f = cache(partial(energy_law, field.structure)), motion(energy, field.structure)
    two, (star, chair, path) = weights

    def checked(u: State) -> Tensor:
        found = energy(u)  # which says first what states it does not take
        if law(u.shape[-1]) != "conserves":
            raise SettingError("the structure G is not skew: the midpoint has a modified energy where G conserves one")
        return found

    def second(u: State) -> Tensor:
        v = f(u)
        return two * derivative(energy, u, v, v)

    def fourth(u: State) -> Tensor:
        v = f(u)
        g = directional(f, u, v)
        straight = star * derivative(energy, u, v, v, v, v) + chair * derivative(energy, u, v, v, g)
        return straight + path * derivative(energy, u, g, g)

    return _sum(checked, h, order, second, fourth)


def _learned_split(split: Split, h: float, order: int) -> Split:
    """T + h^2 t + h^4 s and so for V: t + v = -H_2, and s + w = -H_4 - d/de H_2(T + e t, V + e v)."""
    t, v = _parts(lambda u: -_words(split, SECOND)(u))

    def second(u: State) -> Tensor:
        q, p = u.chunk(2, -1)
        return t(p) + v(q)

    def fourth(u: State) -> Tensor:
        def moved(e: Tensor) -> Tensor:
            other = Split(lambda p: split.kinetic(p) + e * t(p), lambda q: split.potential(q) + e * v(q))
            return _words(other, SECOND)(u)

        return -_words(split, FOURTH)(u) - perturbed(moved, u)

    more, deeper = _parts(_sum(lambda u: torch.zeros_like(u[..., 0]), h, order, second, fourth))
    return Split(lambda p: split.kinetic(p) + more(p), lambda q: split.potential(q) + deeper(q))


def _parts(energy: Energy) -> tuple[Energy, Energy]:
    """(E(0, p), E(q, 0) - E(0, 0)) of a separable one."""

    def of_p(p: Tensor) -> Tensor:
        return energy(torch.cat([torch.zeros_like(p), p], -1))

    def of_q(q: Tensor) -> Tensor:
        nothing = torch.zeros_like(q)
        both = torch.cat([torch.cat([q, nothing], -1), torch.cat([nothing, nothing], -1)])
        there, here = energy(both).chunk(2)
        return there - here

    return of_p, of_q


def _checked(field: Any, stepper: Any, h: float, order: int) -> Split | None:
    """The parts of a field for leapfrog, None for the midpoint."""
    if type(order) is not int or order not in (0, 2, 4):
        raise SettingError(f"order is {order!r}, expected 0, 2 or 4: the highest power of h to keep")
    if not (isinstance(h, float | int) and isfinite(h) and h != 0):
        raise SettingError(f"h is {h!r}, expected a finite step other than 0")
    if isinstance(stepper, Leapfrog):
        if not (hasattr(field, "kinetic") and hasattr(field, "potential")):
            raise SettingError(f"for leapfrog the field is {type(field).__name__}, expected Split(kinetic, potential)")
        return Split(field.kinetic, field.potential)
    if stepper != Gauss(1):
        raise SettingError(f"there is no modified energy for {stepper!r}, expected Leapfrog() or ImplicitMidpoint()")
    if not (hasattr(field, "energy") and hasattr(field, "structure")):
        raise SettingError(f"the field is {type(field).__name__}, expected EnergySystem(H, G) or Split(T, V)")
    return None
