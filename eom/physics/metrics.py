"""How good a learned system is, in five numbers that do not stand for one another."""

from typing import NamedTuple

import torch
from torch import Tensor

from eom.errors import DataError, StepError
from eom.physics.data_sets import rates
from eom.physics.models import LearnedSystem
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories


class Scores(NamedTuple):
    """Means over trajectories and times; nan where there is no such number.

    ``derivative`` mean |f(u) - u'|^2 per entry on true states; ``energy`` mean (H(v) - H(u))^2 of the true H, v
    predicted; ``state`` mean |v - u|^2 per entry; ``drift`` largest change of the model's own energy, or largest rise
    in a step where the system dissipates, over its spread on the test states; ``invariants`` largest change of what
    the flow keeps; ``rising`` share of steps in which the true H rises though the system dissipates; ``horizon`` mean
    time to a relative error of 1/2 of the state.
    """

    derivative: float
    energy: float
    state: float
    drift: float
    invariants: float
    rising: float
    horizon: float


def evaluate(
    model: LearnedSystem,
    system: System,
    test: Trajectories,
    *,
    substeps: int = 1,
    predicted: Trajectories | None = None,
) -> Scores:
    """Predict from the first state of each noise-free ``test`` trajectory, and compare.

    A prediction that stops is scored up to where it came: its later states are infinite, and so are its errors.
    """
    test = test.to(next(model.parameters()).dtype)
    if test.size != system.size:
        raise DataError(f"test states have {test.size} entries, {system.name} has {system.size}")
    u = test.states
    try:
        v = (predicted or model.predict(u[:, 0], test.times, substeps)).states
    except StepError:
        v = torch.full_like(u, torch.inf)
    with torch.no_grad():
        flat = u.flatten(0, 1)
        slope = (model(flat) - rates(system, flat)).square().mean()
        energies, true = system.energy(v), system.energy(u)
        own = getattr(model.field, "energy", None)
        rises = energies.diff(dim=1) > 1e-6 * true.abs().max() if system.dissipates else None
        return Scores(
            float(slope),
            float((energies - true).square().mean()),
            float((v - u).square().mean()),
            float("nan") if own is None else _drift(own, v, u, system.dissipates),
            max((float((c(v) - c(v[:, :1])).abs().max()) for c in system.conserved.values()), default=float("nan")),
            float("nan") if rises is None else float(rises.double().mean()),
            float(_horizon(u, v, test.times).mean()),
        )


def _drift(energy, v: Tensor, u: Tensor, dissipates: bool) -> float:
    here, spread = (energy(x.flatten(0, 1)).view(x.shape[:2]) for x in (v, u))
    change = here.diff(dim=1).clamp(min=0) if dissipates else (here - here[:, :1]).abs()
    return float(change.max() / spread.std())


def _horizon(u: Tensor, v: Tensor, times: Tensor) -> Tensor:
    """[b] the last time up to which |v - u| < |u| / 2."""
    off = (v - u).norm(dim=-1) >= u.norm(dim=-1) / 2
    first = torch.where(off.any(1), off.int().argmax(1), u.shape[1] - 1)
    return times.gather(1, first[:, None])[:, 0] - times[:, 0]
