"""What a comparison says, in sentences with their numbers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from eom.analysis.caveats import from_batches, looked_ahead, repeated, stretches, unfinished, unpredicted
from eom.analysis.compare import Comparison
from eom.analysis.scaling import Rate
from eom.analysis.words import count, listed, number, percent, source_name

OFTEN = 20  # sharpnesses along a run, below which their number is said
STANDS = 0.5  # share of the rate from which on gradient flow has next to nothing to do with it


def verdict(comparison: Comparison, wanted: float) -> list[str]:
    """First the answer: up to which learning rate each order holds, and where the edge of stability begins."""
    return [
        " ".join([*scope(comparison), *holds(comparison, wanted), *stability(comparison)]),
        *by_theory(comparison, wanted),
        *growth(comparison),
        *looked_ahead(comparison),
        *repeated(comparison, wanted),
        *stretches(comparison),
        *unfinished(comparison),
        *unpredicted(comparison),
    ]


def at_rate(rate: Rate) -> str:
    return "–" if np.isnan(rate.value) else f"{rate.bound} {number(rate.value)}".strip()


def reach(rate: Rate) -> str:
    return {"<": "at none of these rates", ">": "at every one of these rates"}.get(
        rate.bound, f"up to {number(rate.value)}"
    )


def scope(comparison: Comparison) -> Iterator[str]:
    table = comparison.table()
    low, high = (number(x) for x in (table.lr.min(), table.lr.max()))
    rates = f"at learning rates {low} to {high}" if low != high else f"at learning rate {low}"
    few, many = int(table.steps.min()), int(table.steps.max())
    steps = count(many, "step") if few == many else f"{few} to {count(many, 'step')}"
    more = sum(len(family.readings) for family in comparison.repeats)
    of = f" of {len(table) + more}, those that begin like {comparison.names[0]}," if more else ""
    yield f"{count(len(table), 'run')}{of} of one model from the same start, {rates}, {steps} each."
    if blown := [comparison.names[k] for k in comparison.exploded]:
        yield (f"{listed(blown)} exploded: no error of a prediction is stated there.")


def holds(comparison: Comparison, wanted: float) -> Iterator[str]:
    """Up to which rate each order keeps the wanted error."""
    named = any(reading.manifest.get("weights") for reading in comparison.readings)
    what = "every weight matrix or kernel" if named else "every tensor"
    for source, found in comparison.largest(wanted).items():
        name = source_name(source)
        name = name if source == "order-0" else f"the equation of motion to {name}"
        own = comparison.steady.loc[comparison.steady.source == source].sort_values("lr")
        seen = found.seen
        if np.isnan(seen.value):
            continue
        these = (
            "of these rates" if len(own) == len(comparison.readings) else f"of the {len(own)} rates it can be judged at"
        )
        first, last = f"{number(own.lr.iloc[0])}", f"{number(own.lr.iloc[-1])}"
        if seen.bound and len(own) == 1:
            held = "" if seen.bound == ">" else "not "
            said = f"{held}at {first}, the one rate that it can be judged at: its error is {percent(own.error.iloc[0])}"
        elif seen.bound == "<":
            said = f"at none {these}: its error is {percent(own.error.iloc[0])} already at the smallest, {first}"
            if source == "order-0" and own.error.iloc[0] > STANDS:
                said += " (before a normalisation a norm moves only by what gradient flow leaves out, at any rate)"
        elif seen.bound:
            said = f"at every one {these}: its error is {percent(own.error.iloc[-1])} at the largest, {last}"
        else:
            below, above = own.lr[own.lr <= seen.value].max(), own.lr[own.lr >= seen.value].min()
            said = f"up to a learning rate of about {number(seen.value)}, between the runs at {number(below)} and "
            said += number(above)
        under = "under descent on the batch of each record " if from_batches(comparison) else ""
        text = f"{name} describes how the norm of {what} changes {under}to within "
        text += f"{percent(wanted)} of its rate {said}."
        yield text[0].upper() + text[1:]


def stability(comparison: Comparison) -> Iterator[str]:
    """From which rate on lr x sharpness reaches 2, and 1."""
    table = comparison.table()
    known = table.loc[table.sharpest.notna()]
    if known.empty:
        yield "The sharpness was not recorded, so where the edge of stability begins is not known."
        return
    few, many = int(known.sharpnesses.min()), int(known.sharpnesses.max())
    often = count(many, "time") if few == many else f"{few} to {count(many, 'time')}"
    each = "each run" if len(known) == len(table) else f"{len(known)} of the runs, in the others not"
    coarse = f"The sharpness was measured {often} in {each}: what it did between is not known."
    beyond = known.loc[known.edge.notna()]
    if beyond.empty:
        top = known.loc[known.sharpest.idxmax()]
        yield (
            f"No run was seen at the edge of stability, lr × sharpness = 2: the largest is {number(top.sharpest)}, at "
            f"{number(top.lr)}."
        )
    else:
        first = beyond.sort_values("lr").iloc[0]
        yield (
            f"The edge of stability, lr × sharpness = 2, is reached from the rate {number(first.lr)} on, seen there at "
            f"step {int(first.edge)}{below_edge(known, float(first.lr))}."
        )
    if many < OFTEN:
        yield coarse
    strained = known.loc[known.radius.notna()]
    if len(strained) and (beyond.empty or strained.lr.min() < beyond.lr.min()):
        yield (
            f"From {number(strained.lr.min())} on lr × sharpness passes 1, where the series behind measured rates and "
            "high orders need not converge any more."
        )


def below_edge(known: pd.DataFrame, lr: float) -> str:
    """What was seen at the next smaller rate."""
    smaller = known.loc[known.lr < lr]
    if smaller.empty:
        return ""
    next_one = smaller.loc[smaller.lr == smaller.lr.max()]
    return f"; the largest value seen at {number(next_one.lr.iloc[0])} is {number(next_one.sharpest.max())}"


def by_theory(comparison: Comparison, wanted: float) -> Iterator[str]:
    """The same rates from what single runs say of themselves."""
    for source, found in comparison.largest(wanted).items():
        said = []
        if not np.isnan(found.bars.value):
            said.append(f"its own error bars say {reach(found.bars)}")
        if not np.isnan(found.step.value):
            law = f"lr = 2 × {number(wanted)} × |g| / |H g|" if source == "order-0" else "by the size of its next term"
            said.append(
                f"one step ends within {percent(wanted)} of its length from where the flow does, all parameters "
                f"together and root mean square over the records, {reach(found.step)} ({law})"
            )
        if said:
            yield f"By theory, for {source_name(source)} within {percent(wanted)}: {'; '.join(said)}."


def growth(comparison: Comparison) -> Iterator[str]:
    """The fitted slopes over all layers."""
    said = []
    for source, fit in comparison.pooled().items():
        if np.isnan(fit.slope):
            continue
        sure = " (two runs: no interval)"
        if not np.isnan(fit.low):
            sure = f" (95 %: {number(fit.low)} to {number(fit.high)})"
        expected = int(source.removeprefix("order-")) + 1
        said.append(
            f"{source_name(source)}'s as its power {number(fit.slope)}{sure}, expected {expected}, over "
            f"{count(fit.runs, 'run')} at {count(fit.times, 'common time')}"
        )
    if said:
        yield f"With the learning rate the errors grow: {'; '.join(said)}."
    else:
        yield (
            "How the errors grow with the learning rate is not known: that takes two runs with predictions at two "
            "rates, recorded over common times, with lr × sharpness below 1 and errors above the measurement's bar."
        )
