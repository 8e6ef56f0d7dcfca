"""What pictures are made of: motions that models predict, and energies along them, handed on as numpy."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eom.dynamics.energy import Energy, numbers
from eom.errors import DataError, SettingError
from eom.physics.doors import require_models, require_of, require_predicted
from eom.physics.limits import require_among
from eom.physics.metrics import falls
from eom.physics.models import LearnedSystem, as_predicting
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories

Models = Mapping[str, LearnedSystem]
Motions = Mapping[str, Trajectories]


def predictions(models: Models, test: Trajectories, predicted: Motions | None = None, substeps: int = 1) -> Motions:
    """What each model predicts from the first states, at the same times.

    Raises:
        StepError: a prediction stops. SettingError: models that are none. SettingError, DataError: ``predicted`` of no
        such model, or not as ``test``.
    """
    require_models(models)
    given = predicted or {}
    unknown = [name for name in given if name not in models]
    if unknown:
        raise SettingError(f"predicted holds {unknown[0]!r}, expected names of the models: {', '.join(models)}")
    if "true" in models:
        raise SettingError("a model has the name 'true', which is that of the true motion: call it otherwise")
    for motion in given.values():
        require_predicted(motion, test)
    return {
        name: given[name] if name in given else model.predict(test.states[:, 0].to(model.dtype), test.times, substeps)
        for name, model in models.items()
    }


def all_of(models: Models, test: Trajectories, predicted: Motions | None, member: int) -> Motions:
    """The true motion and what is predicted, of which one trajectory is to be drawn."""
    require_among(len(test), member=member)
    return {"true": test, **predictions(models, test, predicted)}


def rolled(motion: Trajectories, grid: Sequence[int], member: int) -> np.ndarray:
    """[s, m, m'] of one trajectory."""
    if len(grid) != 2 or min(grid) < 2 or grid[0] * grid[1] != motion.size:
        raise DataError(
            f"grid is {tuple(grid)}, and states have {motion.size} entries: expected its two factors, of 2 or more; "
            "fields of one dimension are drawn by space_time"
        )
    return numpy(motion.states[member].unflatten(-1, tuple(grid)))


def energies_over_time(models: Models, system: System | None, test: Trajectories, motions: Motions) -> pd.DataFrame:
    """Changes and errors of the true energy and changes of own ones, as ``portraits.energy_courses`` draws them."""
    rows, sizes, own = [], [], []
    if system is not None:
        require_of(system, test)
        true = numbers(system.energy, test.states)
        for text, motion in {"true": test, **motions}.items():
            energy = numbers(system.energy, motion.states.to(true.dtype))
            rows += energy_rows("change of the true energy", "H(t) − H(0)", text, test, changes(energy))
            if text != "true":
                off = (energy - true).abs()
                sizes += energy_rows("error of the true energy", "|H predicted − H true|", text, test, off)
    for text, motion in motions.items():
        learned = own_energy(models[text])
        if learned is not None:
            change = changes(numbers(learned, motion.states))
            if falls(models[text].field, test.size):
                own += energy_rows("change of a damped model's own energy", "E(t) − E(0)", text, test, change)
            else:
                own += energy_rows("change of the model's own energy", "|E(t) − E(0)|", text, test, change.abs())
    return pd.DataFrame([*rows, *sizes, *own])


def energy_rows(panel: str, unit: str, text: str, test: Trajectories, values: Tensor) -> list[dict]:
    """A row for each time of values [b, s]: the median over b, and its quartiles."""
    found = np.quantile(numpy(values), [0.25, 0.5, 0.75], axis=0).T
    return [
        {"panel": panel, "unit": unit, "line": text, "time": float(t), "low": a, "value": m, "high": b}
        for t, (a, m, b) in zip(test.times[0], found, strict=True)
    ]


def own_energy(model: LearnedSystem) -> Energy | None:
    """[b, n] -> [b], in the floats and the mode of predictions; None where a model has learned no energy."""
    own = getattr(model.field, "energy", None)
    if own is None:
        return None

    def energy(u: Tensor) -> Tensor:
        with torch.no_grad(), as_predicting(model):
            return numbers(own, u.to(model.dtype))

    return energy


def in_numpy(energy: Energy | None, dtype: torch.dtype) -> Callable[[np.ndarray], np.ndarray] | None:
    """The same of numpy's states, taken in these floats."""
    return energy and (lambda states: numpy(numbers(energy, torch.as_tensor(states, dtype=dtype))))


def changes(energy: Tensor) -> Tensor:
    """[b, s] H(u_k) - H(u_0)."""
    return energy - energy[:, :1]


def numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
