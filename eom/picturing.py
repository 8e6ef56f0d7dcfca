"""Pictures of learned systems beside the true ones: portraits, energies, space and time, animations.

``test`` are noise-free ``Trajectories``. ``models`` have names; each predicts from the first state of every trajectory,
unless ``predicted`` holds what it did. Loads torch and what draws.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eom.analysis import fields, films, portraits
from eom.analysis.drawing import standalone
from eom.errors import DataError, SettingError
from eom.motions import (
    Models,
    Motions,
    all_of,
    energies_over_time,
    in_numpy,
    numpy,
    own_energy,
    predictions,
    rolled,
)
from eom.physics.doors import require_models, require_of
from eom.physics.limits import require_among, require_file, require_grid, require_positive, require_whole
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories


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


def phase_portrait(
    models: Models, system: System | None, test: Trajectories, *, predicted: Motions | None = None,
    pair: tuple[int, int] | None = None, observed: Trajectories | None = None, name: str = "portrait",
) -> Picture:  # fmt: skip
    """Paths over level lines of the true and the learned energy, drawn where a ``system`` is given, of two entries.

    Without models, the true paths alone.

    Args:
        pair: the entries that are drawn, by default a position and its momentum. observed: shown in a panel of its own.
        name: that ids in the <svg> begin with, for pages with several pictures.

    Raises:
        SettingError: models that are not learned systems by name; no such entries. DataError: states of another system.
    """
    i, j = pair or (0, test.size // 2)
    require_among(test.size, **{"pair[0]": i, "pair[1]": j})
    if system:
        require_of(system, test)
    flat, dtype = (test.size, i, j) == (2, 0, 1), test.states.dtype  # flat: the picture is the state space
    panels = [
        portraits.Portrait(
            text, numpy(motion.states[..., [i, j]]), in_numpy(own_energy(models[text]), dtype) if flat else None
        )
        for text, motion in predictions(models, test, predicted).items()
    ]
    svg = portraits.phase_portrait(
        name, numpy(test.states[..., [i, j]]), panels, (test.entries[i], test.entries[j]),
        in_numpy(system.energy, dtype) if system and flat else None,
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
    frame = energies_over_time(models, system, test, predictions(models, test, predicted))
    if frame.empty:
        raise DataError("no model has an energy, and no system is given whose energy could be drawn")
    return Picture(portraits.energy_courses(name, frame, clock))


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
    require_models(models)
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
