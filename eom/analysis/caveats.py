"""What a reader of a comparison has to know beside its answer."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from eom.analysis.compare import Comparison
from eom.analysis.families import apart
from eom.analysis.scaling import Rate
from eom.analysis.words import FEW, count, label, number, percent, source_name

FOLLOWED = 8  # steps behind a record in which its rates are measured, and more
OFTEN_AHEAD = 0.1  # share of records from which on a run is one of mini-batches


def in_words(rate: Rate) -> str:
    return {">": "more than ", "<": "less than "}.get(rate.bound, "") + number(rate.value)


def looked_ahead(comparison: Comparison) -> Iterator[str]:
    """Steps that descend other functions than the one before."""
    if from_batches(comparison):
        yield (
            f"In {percent(ahead(comparison))} of the records the run did not go on with steps like the record's own, "
            "but with another batch or random draw: the rates there are those of gradient descent on the record's "
            "batch, a look-ahead, and so is the sharpness. Errors of two runs at one time are then those of different "
            "batches, and their slopes vary with them."
        )


def ahead(comparison: Comparison) -> float:
    """The share of records, in runs of one learning rate and before their last steps, that took a look-ahead."""
    looked = [
        errors.reference_source.loc[errors.step + FOLLOWED <= reading.manifest.get("steps", 0)] == "look-ahead"
        for k, (reading, errors) in enumerate(zip(comparison.readings, comparison.layer_errors, strict=True))
        if k not in comparison.varying
    ]
    found = pd.concat(looked) if looked else pd.Series(dtype=bool)
    return float(found.to_numpy().mean()) if len(found) else 0.0


def from_batches(comparison: Comparison) -> bool:
    """Whether steps descend the loss of one batch after another."""
    return ahead(comparison) > OFTEN_AHEAD


def repeated(comparison: Comparison, wanted: float) -> Iterator[str]:
    """The other families of runs that begin alike among themselves, and the same rates there."""
    if comparison.repeats:
        own = comparison.readings[0]
        why = sorted({apart(family.readings[0], own) for family in comparison.repeats})
        others = count(sum(len(family.readings) for family in comparison.repeats), "run")
        yield (
            f"{others} more, which begin with {', or with '.join(why)}, are compared among themselves, in the last "
            "table; all else here is about the first."
        )
    for source, found in comparison.largest(wanted).items():
        there = [(other.largest(wanted).get(source), other.names[0]) for other in comparison.repeats]
        rates = [
            f"{in_words(rate.seen)} ({name} and its kin)"
            for rate, name in there
            if rate is not None and not np.isnan(rate.seen.value)
        ]
        if rates and not np.isnan(found.seen.value):
            yield (
                f"The largest rate for {source_name(source)} within {percent(wanted)} is {in_words(found.seen)} in "
                f"these runs, and in the others, which begin alike among themselves: {', '.join(rates)}."
            )


def stretches(comparison: Comparison) -> Iterator[str]:
    """Runs of equal steps, which end at different times."""
    table = comparison.table()
    time = table.time.loc[table.end == "finished"]
    if time.max() > 2 * time.min() and len(comparison.shares):
        yield (
            f"The last records are at times {number(time.min())} to {number(time.max())}, and the errors of each run "
            "are those over its own: to compare them over the same stretch, sweep with time in place of steps."
        )


def unfinished(comparison: Comparison) -> Iterator[str]:
    table = comparison.table()
    left = table.loc[table.end != "finished"]
    if len(left):
        named = [f"{run}: {label(end, 200)}" for run, end in zip(left.run, left.end, strict=True)][:FEW]
        more = f"; and {len(left) - FEW} more, in the table" if len(left) > FEW else ""
        yield f"{count(len(left), 'run')} did not come to the end. {'; '.join(named)}{more}."


def unpredicted(comparison: Comparison) -> Iterator[str]:
    """Runs whose errors are not compared, and runs whose rate changed."""
    known = set(comparison.shares.run)
    without = [name for k, name in enumerate(comparison.names) if k not in known]
    if without:
        yield (
            f"Without predictions, so compared by what was measured only: {', '.join(without)}; the run's own report "
            "says why."
        )
    changing = [comparison.names[k] for k in comparison.varying]
    if changing:
        yield (
            f"The learning rate changed during {', '.join(changing)}, named by the largest: the errors there count at "
            "the rate of their record, and not for the largest rate."
        )
