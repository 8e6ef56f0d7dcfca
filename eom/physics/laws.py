"""What a learned law says: an energy against the true one.

A field u' = G grad H fixes H up to a constant, and up to a factor that G gives back: G -> c G, H -> H / c. Energies are
compared up to both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eom.calculus.modes import evaluated
from eom.dynamics.field import require_function
from eom.errors import SettingError
from eom.physics.limits import said
from eom.physics.models import LearnedSystem, as_predicting
from eom.physics.systems import System

Energy = Callable[[Tensor], Tensor]  # [b, n] -> [b]
ROUNDING = 1e-12  # of the largest value


@dataclass(frozen=True)
class Agreement:
    """true = offset + scale * learned + multiples of what is unseen, up to ``residual``; scale 0 of a learned constant.

    ``residual_at_scale_one`` is left by the best offset and multiples alone.

    Residuals are root mean squares over the standard deviation of the true energy on the states.
    """

    scale: float
    offset: float
    residual: float
    residual_at_scale_one: float


def compare_energies(
    learned: Energy | LearnedSystem | System,
    true: Energy | LearnedSystem | System,
    states: Tensor,
    unseen: Sequence[Energy] = (),
) -> Agreement:
    """How well ``learned`` is ``true`` on ``states`` [b, n], up to an offset and a scale, by least squares.

    Energies, or a model and a system that have one.

    Of a learned Lagrangian that is too little in one dimension, where any function of H may be its energy, and of
    parts that hardly move each other, of which each may have a scale of its own.

    ``unseen`` are what the structure cannot see, G grad C = 0, such as the mass of a field whose G is a derivative: any
    multiple of them may stand in a learned energy, and is left out of both.

    Raises:
        SettingError: fewer states than numbers to find and one more, not finite ones, or energies that are not one
            finite number for each of them; a model without an energy; a true energy that is the same on all, or made of
            what is unseen.
    """
    if isinstance(unseen, str) or not isinstance(unseen, Sequence):
        raise SettingError(f"unseen is {unseen!r}, expected energies in a list or a tuple, as (mass,)")
    checked_states(states, 3 + len(unseen))
    require_function(**{f"what is unseen, its entry {k}": c for k, c in enumerate(unseen)})
    learned, true = energy_of("learned", learned, states), energy_of("true", true, states)
    with torch.no_grad():
        x, y = (scalars(name, e, states) for name, e in (("learned", learned), ("true", true)))
        basis = torch.stack([torch.ones_like(x), *(scalars("unseen", c, states) for c in unseen)], 1)
        basis = basis / basis.abs().amax(0).clamp(min=torch.finfo(x.dtype).tiny)  # in any units
        both = torch.stack([x, y], 1)
        weights = torch.linalg.lstsq(basis, both).solution  # [1 + unseen, 2]
        a, b = (both - basis @ weights).T
    spread = float(b.square().mean().sqrt())
    if spread <= ROUNDING * float(y.abs().max()):
        raise SettingError(
            f"the true energy is {float(y[0]):g} on all states, expected states of different energies"
            if not unseen
            else "the true energy is a constant and multiples of what is unseen on all states, expected other states"
        )
    constant = float(a.abs().max()) <= ROUNDING * float(x.abs().max())
    scale = 0.0 if constant else float(a @ b / a.square().sum())

    def left(c: float) -> float:
        return float((b - c * a).square().mean().sqrt()) / spread

    return Agreement(scale, float(weights[0, 1] - scale * weights[0, 0]), left(scale), left(1.0))


def checked_states(states: Tensor, least: int) -> None:
    if not (isinstance(states, Tensor) and states.ndim == 2 and states.is_floating_point()):
        raise SettingError(f"states are {said(states)}, expected a tensor of floats [b, n]")
    if not bool(torch.isfinite(states).all()):
        raise SettingError("states hold NaN or infinity, expected finite numbers")
    if len(states) < least:
        raise SettingError(f"{len(states)} states, expected {least} or more for what is fitted to them")


def in_floats_of(function: Any, u: Tensor) -> Tensor:
    """States in the floats of a module's parameters."""
    return u.to(next((x.dtype for x in getattr(function, "parameters", tuple)()), u.dtype))


def require_size(source: Any, states: Tensor) -> None:
    """Raise where states are not those of a model or a system."""
    if isinstance(source, LearnedSystem | System) and states.shape[-1] != source.size:
        raise SettingError(
            f"states end in {states.shape[-1]} entries, those of the {type(source).__name__} in {source.size}"
        )


def energy_of(name: str, source: Any, states: Tensor) -> Energy:
    """An energy, or that of a model or a system of such states."""
    require_size(source, states)
    if not isinstance(source, LearnedSystem | System):
        require_function(**{f"the {name} energy": source})
        return source
    field: Any = source.field
    if not hasattr(field, "energy"):
        raise SettingError(f"the {name} model has no energy, expected one that learns it, as energy_model(size)")
    energy: Energy = field.energy
    if isinstance(source, System):
        return energy

    def own(u: Tensor) -> Tensor:
        with as_predicting(source):
            return energy(u.to(source.dtype))

    return own


def scalars(name: str, energy: Energy, states: Tensor) -> Tensor:
    """[b] the energy of each state."""
    with as_predicting(energy):
        found = evaluated(energy, in_floats_of(energy, states).clone())  # which it may write to
    shape = found.shape if isinstance(found, Tensor) else None
    found = found[..., 0] if shape == (len(states), 1) else found
    if shape not in (states.shape[:1], (len(states), 1)) or found.is_complex():
        raise SettingError(f"the {name} energy of {len(states)} states is {said(found)}, expected one real number each")
    if not bool(torch.isfinite(found).all()):
        raise SettingError(f"the {name} energy is NaN or infinite on some states")
    return found.double()
