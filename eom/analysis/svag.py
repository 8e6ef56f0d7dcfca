"""Trainings by SVAG beside each other: do expectations depend on the refinement?"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from eom.analysis.curves import bands
from eom.analysis.figures import Figure
from eom.analysis.page import fill, save
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.tables import Cell, Table, amount
from eom.analysis.words import count, label, listed, number, percent, quantity_name
from eom.errors import SettingError

WANTED = 0.05  # share of a quantity's change that its expectation may differ by
GROWN = 1.5  # by which the loss at the end is above its start, of a training that does not train
PLACES = 50  # times at most at which runs are compared
CONFIDENCE = 0.95
UNCHANGED = 1e-9  # share of a quantity's start below which its change is rounding


@dataclass(frozen=True)
class Svag:
    """Runs by refinement l; each quantity's mean over seeds, and how far that of l = 1, SGD, is from the finest."""

    runs: Mapping[int, Sequence[Reading]]
    folder: Path
    wanted: float = WANTED
    lost: Mapping[int, int] = field(default_factory=dict)  # runs that did not come to their end, by refinement

    @cached_property
    def means(self) -> pd.DataFrame:
        """Columns ``refinement``, ``time``, ``quantity``, ``group``, ``mean``; ``bar``, the half-width of its 95 %
        interval over runs; ``start``, the mean at the first record.
        """
        parts = [means_of(readings).assign(refinement=level) for level, readings in self.runs.items()]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Of SGD from the finest refinement, by quantity and group, at the ``time`` where it is largest.

        Columns ``quantity``, ``group``; ``difference`` and ``bar``, half of a 95 % interval, as shares of ``scale``,
        the largest change of the quantity from its start; ``verdict``: "agrees" where difference and bar stay within
        the wanted share at all times, "differs" where the difference exceeds it by more than a bar that holds for all
        rows and times together, which then is the row's, else "open". What did not change is left out.
        """
        coarse, fine = (self.means.loc[self.means.refinement == level] for level in (1, max(self.runs)))
        both = coarse.merge(fine, on=["time", "quantity", "group"], suffixes=("", "_fine"))
        changes = (both["mean"] - both.start).abs(), (both.mean_fine - both.start_fine).abs()
        both["change"] = np.maximum(*changes)
        both["scale"] = both.groupby(["quantity", "group"], observed=True)["change"].transform("max")
        both = both.loc[(both.scale > UNCHANGED * both.start.abs()) & (both.time > both.time.min())]
        fewest = min(len(readings) for readings in self.runs.values())
        each = both.groupby(["quantity", "group"], sort=False, observed=True)
        return pd.DataFrame([difference(rows, self.wanted, wider(len(both), fewest)) for _, rows in each])

    @property
    def verdict(self) -> str:
        """ "credible", "not credible", or "open", of all quantities together."""
        said = {self.of_means}
        if any(self.lost.values()):  # what is left of some is no sample of all
            said |= {"not credible" if self.losses_differ else "open"}
        return min(said, key=["not credible", "open", "credible"].index)

    @property
    def of_means(self) -> str:
        """The verdict on the runs that came to their end."""
        said = set(self.differences.verdict) if len(self.differences) else {"open"}
        return "not credible" if "differs" in said else "open" if "open" in said else "credible"

    @property
    def losses_differ(self) -> bool:
        """Whether more of SGD's runs diverged than of the finest, or fewer, beyond chance (Fisher's exact test)."""
        lost = [(self.lost.get(level, 0), len(self.runs[level])) for level in (1, max(self.runs))]
        return float(stats.fisher_exact(lost)[1]) < 1 - CONFIDENCE  # type: ignore[arg-type] - a float

    def table(self) -> pd.DataFrame:
        """``differences``, a copy."""
        return self.differences.copy()

    def sentences(self) -> list[str]:
        """The answer first, then what it rests on."""
        return list(sentences(self))

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Write the page, into the folder of the runs by default, and return where it is.

        Raises:
            FolderNotWritableError: it cannot be written there.
        """
        rows = self.means.loc[self.means.group == "all"]
        finest, first = max(self.runs), self.runs[1][0]
        units = [first.unit(str(q)) for q in rows.quantity]
        figure = Figure(
            "Expectations on common time",
            bands("svag", rows.assign(panel=[quantity_name(str(q)) for q in rows.quantity], unit=units), "l"),
            f"Means over {count(len(self.runs[1]), 'seed')} with their 95 % intervals. l = 1 is SGD; the larger l, the "
            f"nearer to the stochastic equation, which l = {finest} stands for. Good: bands that lie on each other.",
        )
        page = fill(
            "comparison.html.j2",
            name=f"SGD as a stochastic equation: {self.verdict}",
            lead="SVAG_l has the noise of SGD in each unit of time, in steps l times as small: where expectations do "
            "not depend on l, the stochastic equation describes SGD.",
            sentences=self.sentences(),
            figures=[figure],
            tables=[self._table()],
            others={},
        )
        return save(page, Path(out) if out is not None else self.folder, "svag.html")

    def _table(self) -> Table:
        headers = [("quantity", ""), ("of", ""), ("verdict", ""), ("SGD from the finest", "% of the change")]
        headers += [("half-width of 95 %", "% of the change"), ("at time", ""), ("largest change", "")]
        rows = []
        for row in self.differences.to_dict("records"):
            texts = [(quantity_name(row["quantity"]), row["quantity"]), (row["group"], row["group"])]
            numbers = (100 * row["difference"], 100 * row["bar"], row["time"], row["scale"])
            verdict = Cell(row["verdict"], row["verdict"])
            rows.append([*(Cell(label(shown, 60), key) for shown, key in texts), verdict, *map(amount, numbers)])
        note = (
            "Difference of the means over seeds, where it and its interval reach farthest, over the largest change of "
            f"the quantity from its start. Good: within {percent(self.wanted)} with its interval, at all times. Where "
            "it differs, the interval is one that holds for all rows and times together."
        )
        return Table("SGD against the stochastic equation", note, headers, rows)


def read(runs: Mapping[int, Sequence[AnyRun]], folder: Path, wanted: float = WANTED, seeds: int | None = None) -> Svag:
    """The comparison of recorded runs, by refinement; of ``seeds`` each, those that came to no end are counted.

    Raises:
        SettingError: fewer than three runs of a refinement came to their end.
    """
    found = {level: [r for r in map(Reading.of, own) if "finished" in r.manifest] for level, own in runs.items()}
    for level, readings in found.items():
        if len(readings) < 3:
            raise SettingError(
                f"{count(len(readings), 'run')} of l = {level} came to the end, expected 3 or more: take more seeds, "
                "or a smaller learning rate where trainings diverge"
            )
    lost = {level: (seeds or len(own)) - len(found[level]) for level, own in runs.items()}
    return Svag(found, folder, wanted, lost)


def means_of(readings: Sequence[Reading]) -> pd.DataFrame:
    """Over runs of one refinement, at their records: mean, bar and start of the loss of all data and of every norm."""
    rows = []
    for run, reading in enumerate(readings):
        table = reading.table()
        kept = table.quantity.isin(["whole_loss", "norm_squared"]) & (table.source == "measured")
        kept &= table.group.isin(["all", *reading.layers])
        rows.append(table.loc[kept, ["time", "quantity", "group", "value"]].assign(run=run))
    whole = pd.concat(rows, ignore_index=True)
    whole["time"] = whole.time.round(9)
    times = np.unique(whole.time)
    chosen = times[np.linspace(0, len(times) - 1, min(PLACES, len(times))).round().astype(int)]
    whole = whole.loc[whole.time.isin(chosen)]
    found = whole.groupby(["quantity", "group", "time"], observed=True, sort=False).value.agg(["mean", "std", "count"])
    found = found.reset_index()
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(found["count"] - 1, 1))
    starts = found.loc[found.time == times[0]].set_index(["quantity", "group"])["mean"]
    start = starts.reindex(pd.MultiIndex.from_frame(found[["quantity", "group"]])).to_numpy()
    return found.assign(bar=reach * found["std"] / np.sqrt(found["count"]), start=start)


def wider(means: int, runs: int) -> float:
    """By how much intervals are wider that hold for so many means together, by Bonferroni's inequality."""
    alone, together = (stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * k), runs - 1) for k in (1, means))
    return float(together / alone)


def difference(rows: pd.DataFrame, wanted: float, wide: float) -> dict[str, object]:
    """Of one quantity: the row of ``differences``.

    That all of them agree needs no wider intervals: a false "all" asks for an error in the one that does not.
    """
    scale = float(rows.scale.iloc[0])
    apart, bar = (rows["mean"] - rows.mean_fine) / scale, np.hypot(rows.bar, rows.bar_fine) / scale
    if (apart.abs() - wide * bar > wanted).any():
        verdict, bar = "differs", wide * bar
    else:
        verdict = "agrees" if (apart.abs() + bar <= wanted).all() else "open"
    reach = apart.abs() - bar if verdict == "differs" else apart.abs() + bar
    worst = rows.index[int(np.argmax(reach.to_numpy()))]
    return {"quantity": str(rows.quantity.iloc[0]), "group": str(rows.group.iloc[0]), "difference": apart[worst],
            "bar": bar[worst], "time": float(rows.time[worst]), "scale": scale, "verdict": verdict}  # fmt: skip


def sentences(found: Svag) -> Iterator[str]:
    table, finest, seeds = found.differences, max(found.runs), len(found.runs[1])
    if lost := {level: many for level, many in found.lost.items() if many}:
        parts = [f"{many} of {count(many + len(found.runs[k]), 'run')} with l = {k}" for k, many in lost.items()]
        judged = "so that it is not credible: " if found.losses_differ else "so that nothing is sure: "
        yield f"Trainings broke off, {judged}{', '.join(parts)}. What follows is about the others only."
    rate = number(float(found.runs[1][0].settings["reference_lr"]))
    view = "the view of SGD as a stochastic equation is credible for this training"
    where = f"at learning rate {rate}, over {count(seeds, 'seed')}"
    if not len(table):
        yield f"Whether {view} {where} is open: neither the loss nor any norm changed."
        return
    apart, asked = table.difference.abs(), percent(found.wanted)
    grows = growing(found)
    off, unsure = table.loc[table.verdict == "differs"], table.loc[table.verdict == "open"]
    if found.of_means == "credible":
        worst = table.loc[(apart + table.bar).idxmax()]
        yield (
            f"T{view[1:]} {where}: no expectation of the loss or of a norm differs from that of l = {finest} by more "
            f"than {asked} of its change (at most {off_by(worst)}, {named(worst)})."
        )
    elif found.of_means == "not credible":
        worst = table.loc[(apart - table.bar).loc[off.index].idxmax()]
        yield (
            f"T{view[1:].replace('is credible', 'is not credible')} {where}: {named(worst)} of SGD differs from that "
            f"of l = {finest} by {off_by(worst)} of its change at time {number(worst.time)}, and {asked} is allowed. "
            + (grows or "A smaller learning rate brings them together.")
        )
    else:
        worst = table.loc[(apart + table.bar).loc[unsure.index].idxmax()]
        yield (
            f"Whether {view} {where} is open: {named(worst)} of SGD differs from that of l = {finest} by "
            f"{off_by(worst)} of its change, and {asked} is allowed. "
            + (grows or "More seeds make the intervals smaller.")
        )
    for rows, said in ((off, "Different"), (unsure, "Open")):
        if len(rows) and found.of_means != "credible":
            yield f"{said}: {listed([named(row) for _, row in rows.iterrows()])}."
    yield (
        f"Agreement of l = 1 with l = {finest} is necessary for the equation to describe SGD; it is tested on the loss "
        "of all data and on squared norms, by layer, and on nothing else."
    )


def growing(found: Svag) -> str:
    """Of a loss that ends above its start, or nothing."""
    means = found.means
    loss = means.loc[(means.quantity == "whole_loss") & (means.refinement == 1)].sort_values("time")
    start, end = loss["mean"].iloc[[0, -1]]
    if not end > GROWN * abs(start):
        return ""
    return f"The loss of SGD grows from {number(start)} to {number(end)}: the learning rate is too large to train with."


def off_by(row: pd.Series) -> str:
    return f"{percent(abs(row.difference))} ± {percent(row.bar)}"


def named(row: pd.Series) -> str:
    """The quantity of a row."""
    of = "" if row.group == "all" else f" of {row.group}"
    return ("the loss" if row.quantity == "whole_loss" else quantity_name(row.quantity)) + of
