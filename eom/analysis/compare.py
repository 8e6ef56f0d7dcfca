"""Several runs of one model beside each other: what the learning rate changes."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from eom.analysis.errors import edge, orders
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.scaling import Largest, Slope, common_errors, largest, slope, slopes
from eom.analysis.words import label
from eom.errors import NotARunError, SettingError
from eom.records.manifest import MANIFEST

WANTED = 0.01  # of the rate: the error that the largest learning rates are given for
SAME = {"model": "another model", "batch": "another first batch", "parameters": "other initial parameters"}


@dataclass(frozen=True)
class Comparison:
    """Runs of one model from the same start, learning rates rising; ``others`` {name: why it stands apart}."""

    readings: list[Reading]
    others: dict[str, str]

    @cached_property
    def errors(self) -> pd.DataFrame:
        """Of the predicted rates at common times, see ``common_errors``."""
        return common_errors(self.readings)

    @cached_property
    def orders(self) -> list[str]:
        return [] if self.errors.empty else orders(self.errors)

    def table(self) -> pd.DataFrame:
        """One row for each run.

        Columns: ``run``, ``lr``, ``steps``, ``time``; ``loss``, the last recorded; ``order-k``, the error of each
        order over the size of the rate, the median over layers and common times; ``radius`` and ``edge``, the first
        recorded steps where lr x sharpness is at least 1 and 2; ``end``, how the run ended.
        """
        return pd.DataFrame([self._row(k) for k in range(len(self.readings))])

    def scaling(self) -> pd.DataFrame:
        """The ``Slope`` of log error over log lr by layer and order, index (group, source); good: k + 1 of order k."""
        return slopes(self.errors)

    def whole(self) -> dict[str, Slope]:
        """The same over all layers together, by order."""
        own = self.errors.assign(place=self.errors.place.astype(str) + self.errors.group) if self.orders else None
        return {source: slope(own.loc[own.source == source]) for source in self.orders}  # type: ignore[union-attr]

    def largest(self, wanted: float = WANTED) -> dict[str, Largest]:
        """The largest learning rate that keeps this error over the size of the rate, by order.

        Raises:
            SettingError: ``wanted`` is no positive number.
        """
        if not 0 < wanted < np.inf:
            raise SettingError(f"the wanted error is {wanted!r}, expected a positive share of the rate")
        return {source: largest(self.errors, source, wanted) for source in self.orders}

    def _row(self, place: int) -> dict[str, object]:
        reading = self.readings[place]
        rows, limits, loss = reading.table(), edge(reading), reading.measured("loss")
        row: dict[str, object] = {
            "run": reading.path.name,
            "lr": rate(reading),
            "steps": reading.manifest.get("steps"),
            "time": float(rows.time.max()) if len(rows) else np.nan,
            "loss": float(loss.value.iloc[-1]) if len(loss) else np.nan,
        }
        if self.orders:
            own = self.errors.loc[(self.errors.run == place) & (self.errors.reference > 0)]
            relative = (own.error / own.reference).groupby(own.source).median()
            row |= {source: float(relative.get(source, np.nan)) for source in self.orders}
        return row | {"radius": limits.radius, "edge": limits.stability, "end": ending(reading)}


def compare(runs: Iterable[AnyRun]) -> Comparison:
    """Compare runs of one model that differ in their learning rate; runs of another start stand apart, and say why.

    Args:
        runs: runs or their folders; a folder of runs, as of a sweep, stands for all of them.

    Raises:
        NotARunError, NewerRunError, DamagedRunError: there is no run to compare.
        SettingError: fewer than two runs are of the same model, data and start.
    """
    given = [runs] if isinstance(runs, str | os.PathLike) else runs
    readings = [Reading.of(one) for run in given for one in inside(run)]
    if not readings:
        raise NotARunError("no run was given, expected two or more")
    families: dict[str, list[Reading]] = {}
    for reading in readings:
        families.setdefault(repr(begins(reading)), []).append(reading)
    own = max(families.values(), key=len)
    others = {label(r.path.name): apart(r, own[0]) for r in readings if r not in own}
    if len(own) < 2:
        said = "; ".join(f"{name} has {why}" for name, why in others.items())
        raise SettingError(f"no two of these runs begin alike, so that they cannot be compared: {said or 'one run'}")
    return Comparison(sorted(own, key=rate), others)


def inside(run: AnyRun) -> list[AnyRun]:
    """The runs in a folder of runs; anything else is a run itself."""
    if isinstance(run, str | os.PathLike) and (folder := Path(run)).is_dir() and not (folder / MANIFEST).exists():
        return [path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))]
    return [run]


def begins(reading: Reading) -> dict[str, str]:
    """The hashes of what a run begins with."""
    found = reading.manifest.get("sha256") or {}
    return {name: found.get(name, "") for name in SAME}


def apart(reading: Reading, other: Reading) -> str:
    """In what a run begins unlike another."""
    mine, its = begins(reading), begins(other)
    return " and ".join(text for name, text in SAME.items() if mine[name] != its[name])


def rate(reading: Reading) -> float:
    """The learning rate that a run began with."""
    return float(reading.settings.get("reference_lr") or np.nan)


def ending(reading: Reading) -> str:
    """How a run ended: as planned, by an error, or not at all."""
    if "finished" in reading.manifest:
        return "finished"
    events = reading.events()
    stopped = events.message.loc[events.kind == "interrupted"]
    return str(stopped.iloc[-1]) if len(stopped) else "not finished"
