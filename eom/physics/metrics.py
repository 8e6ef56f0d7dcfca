"""How good a learned system is, in five numbers that do not stand for one another."""

from math import inf, isnan
from math import nan as NAN
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eom.dynamics.energy import numbers
from eom.dynamics.energy_law import energy_law
from eom.errors import StepError
from eom.physics.data_sets import rates
from eom.physics.doors import accepted, require_of, require_predicted
from eom.physics.models import LearnedSystem, as_predicting
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories


class Scores(NamedTuple):
    """Means over trajectories and times; nan where there is no such number.

    ``derivative`` mean |f(u) - u'|^2 per entry on true states; ``energy`` mean (H(v) - H(u))^2 of the true H, v
    predicted; ``state`` mean |v - u|^2 per entry; ``drift`` largest change of the model's own energy, or largest rise
    in a step where its structure dissipates, over its spread on the test states, be it that of a code of them, whose
    errors count; ``invariants`` largest change of what
    the flow keeps; ``rising`` share of steps in which the true H rises though the system dissipates; ``horizon`` mean
    time to a relative error of 1/2 of the state, of at most the length of the test. Of a single trajectory there is no
    spread, and no ``drift`` of an energy that is to stay.
    """

    derivative: float
    energy: float
    state: float
    drift: float
    invariants: float
    rising: float
    horizon: float

    def __repr__(self) -> str:
        return f"Scores({', '.join(f'{name}={x:.3g}' for name, x in self._asdict().items())})"


def evaluate(
    model: LearnedSystem,
    system: System | None,
    test: Trajectories,
    *,
    substeps: int = 1,
    predicted: Trajectories | None = None,
) -> Scores:
    """Predict from the first state of each ``test`` trajectory, and compare; it should be free of noise.

    Without a ``system``, as for measured data, there are ``state``, ``drift`` and ``horizon`` only. A prediction that
    stops, or runs away, has infinite errors. ``predicted`` spares the prediction where there is one already.

    Raises:
        DataError: data or predictions that are not of this model, system and test. SettingError: no system.
    """
    test = accepted(model, test)
    if predicted is not None:
        require_predicted(predicted, test)
    if system is not None:
        require_of(system, test)
    u = test.states
    try:
        v = (model.predict(u[:, 0], test.times, substeps) if predicted is None else predicted).states.to(u.dtype)
    except StepError:
        v = torch.full_like(u, torch.inf)
    with torch.no_grad(), as_predicting(model):
        of_law = (NAN, NAN, NAN, NAN) if system is None else _against(system, model, u, v)
        slope, energy, invariants, rising = of_law
        state, horizon = _or_infinite(float((v - u).square().mean())), float(_horizon(u, v, test.times).mean())
        return Scores(slope, energy, state, _drift(model.field, v, u), invariants, rising, horizon)


def _against(system: System, model: LearnedSystem, u: Tensor, v: Tensor) -> tuple[float, float, float, float]:
    """Errors of rates and of the true energy, changes of what is conserved, and the share of steps with rising H."""
    flat = u.flatten(0, 1)
    energies, true = numbers(system.energy, v), numbers(system.energy, u)
    falls = energies.diff(dim=1) <= 1e-6 * (true.max() - true.min())  # an infinite one does not
    return (
        float((model(flat) - rates(system, flat)).square().mean()),
        _or_infinite(float((energies - true).square().mean())),
        max((_or_infinite(_change(name, c, v)) for name, c in system.conserved.items()), default=NAN),
        float((~falls).double().mean()) if system.dissipates else NAN,
    )


def _change(name: str, number: Any, v: Tensor) -> float:
    """The largest change of a number of states along trajectories."""
    found = numbers(number, v, name)
    return float((found - found[:, :1]).abs().max())


def _or_infinite(error: float) -> float:
    """Of a prediction that ran away, differences of infinite numbers."""
    return inf if isnan(error) else error


def _drift(field: Any, v: Tensor, u: Tensor) -> float:
    """Of the model's own energy, where it has one: its largest change, or rise where its structure lets it fall.

    One trajectory along which energy should stay has no spread to compare with.
    """
    if not hasattr(field, "energy"):
        return NAN
    here, spread = numbers(field.energy, v), numbers(field.energy, u)
    falling = falls(field, u.shape[-1])
    if len(u) == 1 and not falling:
        return NAN
    change = here.diff(dim=1).clamp(min=0) if falling else (here - here[:, :1]).abs()
    largest = change.max()
    return _or_infinite(float(largest / spread.std())) if float(largest) else 0.0  # at rest there is no spread


def falls(field: Any, size: int) -> bool:
    """Whether the energy of a field on states of this ``size`` is let fall by its structure."""
    return hasattr(field, "structure") and energy_law(field.structure, size) == "dissipates"


def _horizon(u: Tensor, v: Tensor, times: Tensor) -> Tensor:
    """[b] the time up to which |v - u| <= |u| / 2, as where both are at rest in 0."""
    off = ~((v - u).norm(dim=-1) <= u.norm(dim=-1) / 2)  # infinite ones too
    first = torch.where(off.any(1), off.int().argmax(1), u.shape[1] - 1)
    return times.gather(1, first[:, None])[:, 0] - times[:, 0]
