"""What a comparison says, in sentences with their numbers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from eom.analysis.compare import Comparison, apart
from eom.analysis.scaling import Rate
from eom.analysis.words import count, label, number, percent, source_name

FEW = 3  # runs named one by one
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


def in_words(rate: Rate) -> str:
    return {">": "more than ", "<": "less than "}.get(rate.bound, "") + number(rate.value)


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
    yield f"{count(len(table), 'run')} of one model from the same start, {rates}, {steps} each."


def holds(comparison: Comparison, wanted: float) -> Iterator[str]:
    """Up to which rate each order keeps the wanted error."""
    for source, found in comparison.largest(wanted).items():
        name = source_name(source)
        name = name if source == "order-0" else f"the equation of motion to {name}"
        own = comparison.shares.loc[comparison.shares.source == source].sort_values("lr")
        seen = found.seen
        if np.isnan(seen.value):
            continue
        if seen.bound == "<":
            said = f"at none of these rates: its error is {percent(own.error.iloc[0])} already at the smallest"
            if source == "order-0" and own.error.iloc[0] > STANDS:
                said += " (before a normalisation a norm moves only by what gradient flow leaves out, at any rate)"
        elif seen.bound:
            said = f"at every one of these rates: its error is {percent(own.error.iloc[-1])} at the largest"
        else:
            below, above = own.lr[own.lr <= seen.value].max(), own.lr[own.lr >= seen.value].min()
            said = f"up to a learning rate of about {number(seen.value)}, between the runs at {number(below)} and "
            said += number(above)
        text = f"{name} describes how the norm of every weight matrix or kernel changes to within {percent(wanted)} of "
        text += f"its rate {said}."
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
    coarse = f"The sharpness was measured {often} in each run: what it did between is not known."
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
            f"The edge of stability, lr × sharpness = 2, is first reached by the run at {number(first.lr)}, seen at "
            f"step {int(first.edge)}{below_edge(known, float(first.lr))}."
        )
    if many < OFTEN:
        yield coarse
    strained = known.loc[known.radius.notna()]
    if len(strained) and (beyond.empty or strained.lr.min() < beyond.lr.min()):
        yield (
            f"From {number(strained.lr.min())} on it passes 1, where the series behind measured rates and high orders "
            "need not converge any more."
        )


def below_edge(known: pd.DataFrame, lr: float) -> str:
    """What was seen at the next smaller rate."""
    smaller = known.loc[known.lr < lr].sort_values("lr")
    if smaller.empty:
        return ""
    return f"; the largest value seen at {number(smaller.lr.iloc[-1])} is {number(smaller.sharpest.iloc[-1])}"


def by_theory(comparison: Comparison, wanted: float) -> Iterator[str]:
    """The same rates from what single runs say of themselves."""
    for source, found in comparison.largest(wanted).items():
        said = []
        if not np.isnan(found.bars.value):
            said.append(f"its own error bars say {reach(found.bars)}")
        if not np.isnan(found.step.value):
            law = f"lr = 2 × {number(wanted)} × |g| / |H g|" if source == "order-0" else "its next term"
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


def looked_ahead(comparison: Comparison) -> Iterator[str]:
    """Steps that descend other functions than the one before."""
    sources = pd.concat([errors.reference_source for errors in comparison.layer_errors])
    looked = float((sources == "look-ahead").to_numpy().mean()) if len(sources) else 0.0
    if looked > 0:
        yield (
            f"In {percent(looked)} of the records the run did not go on with steps like the record's own (but with "
            "another batch, learning rate or random draw): the rates there are those of gradient descent on the "
            "record's batch, a look-ahead, of which the sharpness is one too. Errors of two runs at one time are then "
            "those of different batches, and their slopes vary with them."
        )


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
        there = [other.largest(wanted).get(source) for other in comparison.repeats]
        rates = [in_words(rate.seen) for rate in there if rate is not None and not np.isnan(rate.seen.value)]
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
    if comparison.differing:
        named = [f"{name} ({', '.join(sorted(set(values)))})" for name, values in comparison.differing.items()]
        yield (
            f"Besides their learning rates these runs differ in {', '.join(named)}: what parts their curves is not the "
            "learning rate alone."
        )
    changing = [comparison.names[k] for k in comparison.varying]
    if changing:
        yield (
            f"The learning rate changed during {', '.join(changing)}: the errors there count at the rate of their "
            "record, and not for the largest rate."
        )
