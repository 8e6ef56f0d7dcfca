"""Several runs of one model beside each other: what the learning rate changes."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

from eom.analysis.errors import edge
from eom.analysis.families import apart, ending, exploded, families_of, inside, rate, rising, unrecorded, weight
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.scaling import Largest, Slope, common_errors, largest, layer_errors, relative_errors, slope, slopes
from eom.analysis.words import count, label
from eom.errors import DamagedRunError, NewerRunError, SettingError
from eom.records import Run

WANTED = 0.01  # of the rate: the error that the largest learning rates are given for


@dataclass(frozen=True)
class Comparison:
    """Runs that begin alike, learning rates rising.

    ``repeats`` are the comparisons of other runs that begin alike among themselves, such as from another seed;
    ``others`` {name: why it is left out} of the rest.
    """

    readings: list[Reading]
    others: dict[str, str]
    repeats: list["Comparison"] = field(default_factory=list)

    @cached_property
    def names(self) -> list[str]:
        """Of the runs: their folders, with as much of the path as tells them apart."""
        paths = [reading.path.resolve() for reading in self.readings]
        depth = next(d for d in range(1, 99) if len({p.parts[-d:] for p in paths}) == len(set(paths)))
        return [label("/".join(path.parts[-depth:])) for path in paths]

    @cached_property
    def layer_errors(self) -> list[pd.DataFrame]:
        """Of each run, see ``layer_errors``."""
        return [layer_errors(reading) for reading in self.readings]

    @cached_property
    def errors(self) -> pd.DataFrame:
        """Of the predicted rates at common times, see ``common_errors``."""
        return common_errors(self.layer_errors)

    @cached_property
    def shares(self) -> pd.DataFrame:
        """``relative_errors`` of every run that was predicted, with columns ``run``, ``lr`` and ``source``."""
        both = zip(self.readings, self.layer_errors, strict=True)
        parts = [relative_errors(r, errors).assign(run=k, lr=rate(r)) for k, (r, errors) in enumerate(both)]
        return pd.concat(parts).rename_axis("source").reset_index()

    @cached_property
    def orders(self) -> list[str]:
        return sorted(self.shares.source.unique())

    @cached_property
    def varying(self) -> list[int]:
        """Places of the runs during which the learning rate changed."""
        return [k for k, r in enumerate(self.readings) if r.measured("lr").value.nunique() > 1]

    @cached_property
    def exploded(self) -> list[int]:
        """Places of the runs that diverged, or whose last loss is a thousand times their first one."""
        return [k for k, reading in enumerate(self.readings) if exploded(reading)]

    @cached_property
    def steady(self) -> pd.DataFrame:
        """The ``shares`` that count for a largest rate: of runs at one rate that did not explode."""
        return self.shares.loc[~self.shares.run.isin([*self.varying, *self.exploded])]

    def table(self) -> pd.DataFrame:
        """One row for each run.

        Columns: ``run``, ``lr``, ``steps``, ``time``; ``loss``, the last recorded; ``order-k``, the error of each
        order over the rate in the worst layer, see ``relative_errors``; ``sharpnesses``, how many were measured;
        ``sharpest``, the largest lr x sharpness;
        ``radius`` and ``edge``, the first recorded steps where that is at least 1 and 2; ``end``, how the run ended.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        return pd.DataFrame([self._row(k) for k in range(len(self.readings))])

    def scaling(self) -> pd.DataFrame:
        """The ``Slope`` of log error over log lr by layer and order, index (group, source); good: k + 1 of order k."""
        return self._scaling.copy()

    @cached_property
    def _scaling(self) -> pd.DataFrame:
        return slopes(self.errors)

    def pooled(self) -> dict[str, Slope]:
        """The same over all layers together, by order."""
        return {str(source): slope(rows) for source, rows in self.errors.groupby("source")}

    def largest(self, wanted: float = WANTED) -> dict[str, Largest]:
        """The largest learning rate that keeps this error over the size of the rate, by order.

        Raises:
            SettingError: ``wanted`` is no positive number.
        """
        check_wanted(wanted)
        return {source: largest(self.steady, source, wanted) for source in self.orders}

    def report(self, out: str | os.PathLike[str] | None = None, wanted: float = WANTED) -> Path:
        """Write the comparison as one self-contained page, and return where it is.

        Args:
            out: the file to write, or a folder for it; by default ``comparison.html`` beside the runs. wanted: the
                error over the size of the rate that the largest learning rates are given for.

        Raises:
            SettingError: ``wanted`` is no positive number. FolderNotWritableError: the page cannot be written there.
        """
        from eom.analysis.comparison import write  # only a page draws

        return write(self, Path(out) if out is not None else self.readings[0].path.parent, wanted)

    def _row(self, place: int) -> dict[str, object]:
        reading = self.readings[place]
        limits, loss = edge(reading), reading.measured("loss")
        errors = self.shares.loc[self.shares.run == place].set_index("source").error
        return {
            "run": self.names[place],
            "lr": rate(reading),
            "steps": reading.manifest.get("steps", reading.rows.step.max()),
            "time": float(reading.rows.time.max()),
            "loss": float(loss.value.iloc[-1]) if len(loss) else np.nan,
            **{source: float(errors.get(source, np.nan)) for source in self.orders},
            "sharpnesses": len(reading.measured("sharpness")),
            "sharpest": float(limits.path.value.max()),
            "radius": limits.radius,
            "edge": limits.stability,
            "end": ending(reading),
        }


def check_wanted(wanted: float) -> None:
    """Raise unless it is a positive number."""
    if not isinstance(wanted, Real) or not 0 < float(wanted) < np.inf:
        raise SettingError(f"the wanted error is {wanted!r}, expected a positive share of the rate")


def compare(runs: Iterable[AnyRun] | AnyRun) -> Comparison:
    """Compare runs of one model that differ in their learning rate; runs that begin otherwise are left out by name.

    Args:
        runs: runs or their folders; a folder of runs, as of a sweep, stands for all of them.

    Raises:
        NotARunError, NewerRunError, DamagedRunError: there is no run to compare.
        SettingError: fewer than two runs have the same model, data and initial parameters, as their hashes say.
    """
    one = isinstance(runs, Run | Reading | str | bytes | os.PathLike) or not isinstance(runs, Iterable)
    given: list[AnyRun] = [runs] if one else list(runs)  # type: ignore[list-item, arg-type] - told apart by ``one``
    found = [run for folder in given for run in inside(folder)]
    readings: dict[Path, Reading] = {}  # each once
    others = {}
    for folder in given:
        others |= unrecorded(folder)
    for run in found:
        try:
            reading = Reading.of(run)
            readings[reading.path.resolve()] = reading
            apart(reading, reading)
        except (DamagedRunError, NewerRunError, OSError, TypeError, ValueError, AttributeError) as failure:
            if len(found) == 1:
                raise
            others[label(str(run))] = f"it cannot be read: {failure}"
    for reading in readings.values():
        if reading.rows.empty:
            others[label(str(reading.path))] = "it holds no record"
    families = families_of(reading for reading in readings.values() if not reading.rows.empty)
    alike = sorted(families, key=weight, reverse=True)
    own = alike[0] if alike else []
    for family in alike[1:]:
        if len(family) == 1 or len(own) < 2:
            others |= {label(str(r.path)): f"it has {apart(r, own[0])}" for r in family}
    if len(own) < 2:
        said = "; ".join(f"{name}: {why}" for name, why in others.items()) or count(len(own), "run")
        raise SettingError(f"expected two runs or more that begin alike, came {said}")
    return Comparison(rising(own), others, [Comparison(rising(family), {}) for family in alike[1:] if len(family) > 1])
