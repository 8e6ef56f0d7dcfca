"""Pictures of learned systems beside the true ones: portraits, energies, space and time, animations.

``test`` are noise-free ``Trajectories``. ``models`` have names; each predicts from the first state of every trajectory,
unless ``predicted`` holds what it did. Loads torch and what draws.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eom.analysis import fields, films, portraits
from eom.analysis.drawing import standalone
from eom.errors import DataError, SettingError
from eom.physics.doors import require_of, require_predicted
from eom.physics.limits import require_among, require_file, require_grid, require_positive, require_whole
from eom.physics.metrics import falls
from eom.physics.models import LearnedSystem
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories

Models = Mapping[str, LearnedSystem]
Motions = Mapping[str, Trajectories]


class Picture(NamedTuple):
    """An <svg> element for a page; a notebook shows it."""

    svg: str

    def save(self, path: str | Path) -> Path:
        """Write an SVG file that stands alone.

        Raises:
            SettingError: a name that ends otherwise, or a folder that is not there.
        """
        require_file(path, ".svg")
        Path(path).write_text(standalone(self.svg), encoding="utf-8")
        return Path(path)

    def _repr_svg_(self) -> str:
        return standalone(self.svg)


def predictions(models: Models, test: Trajectories, predicted: Motions | None = None, substeps: int = 1) -> Motions:
    """What each model predicts from the first states, at the same times.

    Raises:
        StepError: a prediction stops. SettingError, DataError: ``predicted`` of no such model, or not as ``test``.
    """
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


def phase_portrait(
    models: Models, system: System | None, test: Trajectories, *, predicted: Motions | None = None,
    pair: tuple[int, int] | None = None, observed: Trajectories | None = None, name: str = "portrait",
) -> Picture:  # fmt: skip
    """Paths over level lines of the true and the learned energy, drawn where a ``system`` is given, of two entries.

    Args:
        pair: the entries that are drawn, by default a position and its momentum. observed: shown in a panel of its own.
        name: that ids in the <svg> begin with, for pages with several pictures.
    """
    i, j = pair or (0, test.size // 2)
    require_among(test.size, **{"pair[0]": i, "pair[1]": j})
    if system:
        require_of(system, test)
    flat = (test.size, i, j) == (2, 0, 1)  # where the picture is the state space
    panels = [
        portraits.Portrait(text, numpy(motion.states[..., [i, j]]), energy_of(models[text]) if flat else None)
        for text, motion in predictions(models, test, predicted).items()
    ]
    svg = portraits.phase_portrait(
        name, numpy(test.states[..., [i, j]]), panels, (test.entries[i], test.entries[j]),
        of_numpy(system.energy, test.states.dtype) if system and flat else None,
        None if observed is None else numpy(observed.states[..., [i, j]]),
    )  # fmt: skip
    return Picture(svg)


def energy_over_time(
    models: Models, system: System | None, test: Trajectories, *, predicted: Motions | None = None, clock: str = "time",
    name: str = "energy",
) -> Picture:  # fmt: skip
    """Medians and quartiles over trajectories: change of the true energy, its error, change of a model's own energy.

    An own energy that is to fall has its sign, and a panel apart from those that are to stay. Without a ``system``, as
    of measured motion, own energies are all there is.

    Args:
        clock: the label of times, with their unit. name: that ids in the <svg> begin with.

    Raises:
        DataError: trajectories at times of their own, of which there is no median; no energy at all.
    """
    if bool((test.times != test.times[:1]).any()):
        raise DataError("the trajectories have times of their own: draw them one by one, test.select([0])")
    motions = predictions(models, test, predicted)
    rows, sizes, own = [], [], []
    if system:
        require_of(system, test)
        true = system.energy(test.states)
        for text, motion in {"true": test, **motions}.items():
            v = motion.states.to(true.dtype)
            rows += energy_rows("change of the true energy", "H(t) − H(0)", text, test, changes(system.energy, v))
            off = (system.energy(v) - true).abs()
            if text != "true":
                sizes += energy_rows("error of the true energy", "|H predicted − H true|", text, test, off)
    for text, motion in motions.items():
        learned = getattr(models[text].field, "energy", None)
        if learned is not None:
            change = changes(per_state(learned), motion.states)
            if falls(models[text].field, test.size):
                own += energy_rows("change of a damped model's own energy", "E(t) − E(0)", text, test, change)
            else:
                own += energy_rows("change of the model's own energy", "|E(t) − E(0)|", text, test, change.abs())
    if not (rows or own):
        raise DataError("no model has an energy, and no system is given whose energy could be drawn")
    return Picture(portraits.energy_courses(name, pd.DataFrame([*rows, *sizes, *own]), clock))


def energy_rows(panel: str, unit: str, text: str, test: Trajectories, values: Tensor) -> list[dict]:
    """A row for each time of values [b, s]: the median over b, and its quartiles."""
    found = np.quantile(numpy(values), [0.25, 0.5, 0.75], axis=0).T
    return [
        {"panel": panel, "unit": unit, "line": text, "time": float(t), "low": a, "value": m, "high": b}
        for t, (a, m, b) in zip(test.times[0], found, strict=True)
    ]


def space_time(
    models: Models, test: Trajectories, grid: tuple[int, ...] = (), *, width: float = 1.0,
    predicted: Motions | None = None, member: int = 0, labels: Sequence[str] = ("place x", "time", "u", "v"),
    name: str = "space-time",
) -> Picture:  # fmt: skip
    """One trajectory of fields u(x, t) on a periodic ``grid`` of this ``width``: true, predicted, and what differs.

    Args:
        grid: (points,), as ``system.grid``; by default that of a model. States of several times as many entries are as
            many fields, one after another. member: which trajectory. labels: of places, times and the values of each
            field, with units. name: that ids begin with.

    Raises:
        SettingError: no grid, another one or of two dimensions; fewer labels than fields.
    """
    grid = grid or next((model.grid for model in models.values() if model.grid), ())
    require_grid(grid, test.size)
    require_positive(width=width)
    if len(grid) != 1:
        raise SettingError(
            f"the grid is {grid}, expected the points of a line, as grid=system.grid; in two dimensions take snapshots"
        )
    count = test.size // grid[0]
    if len(labels) < 2 + count:
        raise SettingError(f"labels are {labels!r}, expected those of places, times and {count} fields")
    x = np.arange(grid[0]) * (width / grid[0])
    motions = {
        text: numpy(motion.states[member].unflatten(-1, (count, -1)).transpose(0, 1))
        for text, motion in all_of(models, test, predicted, member).items()
    }
    true = motions.pop("true")
    return Picture(fields.space_time(name, true, motions, numpy(test.times[member]), x, labels[: 2 + count]))


def snapshots(
    models: Models, test: Trajectories, grid: tuple[int, int], *, count: int = 5,
    size: tuple[float, float] = (1.0, 1.0), predicted: Motions | None = None, member: int = 0,
    labels: tuple[str, str, str] = ("place x", "place y", "u"), name: str = "snapshots",
) -> Picture:  # fmt: skip
    """One trajectory of fields on a two-dimensional ``grid`` at ``count`` times: true, then of each model."""
    require_whole(count=count)
    at = np.unique(np.linspace(0, test.states.shape[1] - 1, count).round().astype(int))
    rows = {text: rolled(motion, grid, member)[at] for text, motion in all_of(models, test, predicted, member).items()}
    return Picture(fields.snapshots(name, rows, numpy(test.times[member])[at], labels, size))


def animate(
    models: Models, test: Trajectories, path: str | Path, grid: tuple[int, int] | None = None, *, rate: float = 10.0,
    predicted: Motions | None = None, member: int = 0, size: tuple[float, float] = (1.0, 1.0), clock: str = "time",
) -> Path:  # fmt: skip
    """An animated GIF with one picture for each time: fields on a ``grid``, or a pendulum by its ``test.entries``.

    Args:
        rate: pictures in a second. member: which trajectory. size: the lengths of a grid's domain.

    Raises:
        DataError: states that are no field on the grid; without one, a first entry that is not named as an angle.
        SettingError: a name that does not end in .gif, or a folder that is not there; a rate that is not positive.
    """
    require_file(path, ".gif")
    require_positive(rate=rate)
    if grid is None and not test.entries[0].startswith("angle"):
        raise DataError(
            f"the first entry is {test.entries[0]!r}, no angle of a pendulum: name it in Trajectories(..., entries=("
            '"angle / rad", ...)), give a grid=, or draw a phase_portrait'
        )
    motions, times = all_of(models, test, predicted, member), numpy(test.times[member])
    if grid is None:
        angles = {text: numpy(motion.states[member, :, 0]) for text, motion in motions.items()}
        return films.film_pendulums(Path(path), angles, times, rate, clock)
    frames = {text: rolled(motion, grid, member) for text, motion in motions.items()}
    return films.film_fields(Path(path), frames, times, rate, clock, size=size)


def all_of(models: Models, test: Trajectories, predicted: Motions | None, member: int) -> Motions:
    """The true motion and what is predicted, of which one trajectory is to be drawn."""
    require_among(len(test), member=member)
    return {"true": test, **predictions(models, test, predicted)}


def rolled(motion: Trajectories, grid: Sequence[int], member: int) -> np.ndarray:
    """[s, m, m'] of one trajectory."""
    if len(grid) != 2 or grid[0] * grid[1] != motion.size:
        raise DataError(f"grid is {tuple(grid)}, and states have {motion.size} entries: expected its two factors")
    return numpy(motion.states[member].unflatten(-1, tuple(grid)))


def energy_of(model: LearnedSystem) -> Callable[[np.ndarray], np.ndarray] | None:
    """The energy a model has learned, of numpy's states; None where it has none."""
    energy = getattr(model.field, "energy", None)
    return None if energy is None else of_numpy(energy, model.dtype)


def of_numpy(energy: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """[m, n] -> [m] in numpy."""
    return lambda states: numpy(energy(torch.as_tensor(states, dtype=dtype)).reshape(len(states)))


def per_state(energy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """[b, s, n] -> [b, s] of an energy that takes [b, n]."""
    return lambda states: energy(states.flatten(0, 1)).reshape(states.shape[:2])


def changes(energy: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """[b, s] H(u_k) - H(u_0)."""
    values = energy(states)
    return values - values[:, :1]


def numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
