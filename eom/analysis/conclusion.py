"""What a run says, in sentences with their numbers."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eom.analysis.errors import DISPLACEMENT, RATE, Edge, by_layer, edge, gain, orders, prediction_errors
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.words import count, label, number, percent, source_name

WORST = 3  # layers named one by one
HOLDS = 0.1  # a prediction holds where its error and its bar are at most this share of the rate

Medians = dict[tuple[str, str], dict[str, Any]]  # of by_layer, by group and source


def conclusion(run: AnyRun) -> list[str]:
    """Plain sentences: what the run was, what each order got wrong, how much of that is resolved, and where
    the predictions stopped holding or were withheld.
    """
    reading = Reading.of(run)
    if reading.table().empty:
        return ["The run holds no records yet.", *withheld(reading)]
    limits = edge(reading)
    errors = prediction_errors(reading, RATE)
    errors = errors.loc[errors.group.isin(reading.layers)]
    before = math.inf if limits.radius is None else limits.radius
    calm = errors.loc[errors.step < before]
    return [
        *course(reading),
        *withheld(reading),
        *scope(calm, limits),
        *worst_layers(calm),
        *pooled(calm),
        *displaced(reading, before),
        *beyond_edge(errors, limits),
    ]


def scope(calm: pd.DataFrame, limits: Edge) -> Iterator[str]:
    """Which records the numbers that follow are taken from."""
    if not calm.empty and limits.radius is not None:
        yield f"The next numbers are from the steps before {limits.radius}, where lr × sharpness is below 1."
    looked = (calm.reference_source == "look-ahead").mean() if len(calm) else 0.0
    if looked > 0:
        yield (
            f"In {percent(looked)} of the cases the rate is that of a look-ahead on the same batch, not of "
            "the run: they are about each batch's own gradient descent."
        )


def course(reading: Reading) -> Iterator[str]:
    """How long the run was, and what became of the loss."""
    rows = reading.table()
    steps = rows.step.unique()
    where = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps.min()} to {steps.max()}"
    loss = reading.measured("loss")
    finite = loss.loc[np.isfinite(loss.value)]
    said = ""
    if len(finite) > 1:
        said = f"; the loss went from {number(finite.value.iloc[0])} to {number(finite.value.iloc[-1])}"
    elif len(finite) == 1:
        said = f"; the loss was {number(finite.value.iloc[0])}"
    yield f"{count(len(steps), 'record')} at {where}{said}."
    broken = loss.loc[~np.isfinite(loss.value)]
    if not broken.empty:
        first = broken.step.iloc[0]
        yield f"The loss is not finite in {count(len(broken), 'record')}, first at step {first}."


def withheld(reading: Reading) -> Iterator[str]:
    """Where there are no predictions, and why."""
    reason = (reading.manifest.get("predictions") or {}).get("withheld")
    if reason:
        yield f"Predictions were withheld: {label(str(reason)).rstrip('.')}. What was measured is unaffected."
    elif not orders(reading.table()):
        yield "The run holds no predictions, so it says nothing about what the learning rate changes."


def worst_layers(errors: pd.DataFrame) -> Iterator[str]:
    """The layers that gradient flow gets most wrong, and by how much the highest order does."""
    medians: Medians = by_layer(errors).to_dict("index")  # type: ignore[assignment]
    flow = {group: m["error"] for (group, source), m in medians.items() if source == "order-0" and m["records"]}
    best = highest_order(errors)
    for group in sorted(flow, key=lambda g: flow[g], reverse=True)[:WORST]:
        m = medians[group, "order-0"]
        of_rate = m["error"] / m["measured"] if m["measured"] else math.nan
        text = f"Gradient flow misses d|w|²/dt of {label(group, 60)} by {miss(m)} ({percent(of_rate)} of it)"
        if best != "order-0" and (group, best) in medians:
            text += f", {source_name(best)} by {miss(medians[group, best])}"
        yield f"{text}; the measurement's own bar is {number(m['measured_bar'])}."


def miss(m: dict[str, float]) -> str:
    """An error per unit time, or that it is too small to be seen."""
    if m["error"] <= m["measured_bar"]:
        return f"no more than can be measured ({number(m['measured_bar'])} per unit time)"
    return f"{number(m['error'])} per unit time"


def pooled(errors: pd.DataFrame) -> Iterator[str]:
    """Over all layers: how much is resolved, whether the bars were honest, the gain over gradient flow."""
    for source in orders(errors):
        own = errors.loc[errors.source == source]
        name = source_name(source)
        resolved, covered = float(own.resolved.mean()), float(own.covered.mean())
        text = f"Over {count(own.group.nunique(), 'layer')} and {count(own.step.nunique(), 'record')} "
        text += f"the error of {name} is larger than the measurement's bar in {percent(resolved)} of the cases"
        if math.isfinite(covered):
            text += f", and within twice its own bar in {percent(covered)}"
        yield text + "."
        won = gain(errors, source)
        if source != "order-0" and won.share:
            yield (
                f"The error of {name} is {percent(won.median)} of gradient flow's in the median and "
                f"{percent(won.p90)} at the 90th percentile, where gradient flow's is at least 1 % of the "
                f"rate or 100 times the measurement's bar ({percent(won.share)} of the cases)."
            )


def displaced(reading: Reading, before: float) -> Iterator[str]:
    """How far from the run the flows arrive, by order."""
    horizon = reading.settings.get("horizon")
    for quantity, text in (
        ("position_error", "{} the weights of {} end {} from the run's"),
        (DISPLACEMENT, "{} {} misses the change of |w|² by {}"),
    ):
        errors = prediction_errors(reading, quantity)
        errors = errors.loc[(errors.group == "all") & (errors.step + (horizon or 0) <= before)]
        medians = {s: float(errors.error.loc[errors.source == s].abs().median()) for s in orders(errors)}
        if medians:
            after = f"After {count(horizon, 'step')}" if horizon else "After the horizon"
            first, *rest = (text.format(after, source_name(s), number(m)) for s, m in medians.items())
            rest = [f"{source_name(s)} {number(m)}" for s, m in list(medians.items())[1:]]
            starts = count(errors.step.nunique(), "start")
            yield f"{', '.join([first, *rest])} (all parameters, medians over {starts})."


def beyond_edge(errors: pd.DataFrame, limits: Edge) -> Iterator[str]:
    """What became of the predictions where lr x sharpness passed 1, and 2."""
    end = math.inf if limits.stability is None else limits.stability
    if limits.radius is not None and limits.radius < end:
        meaning = "1, where the log map need not converge any more,"
        yield beyond(errors, limits.radius, end, limits.radius, meaning)
    if limits.stability is not None:
        start = limits.radius if limits.radius is not None else limits.stability
        yield beyond(errors, limits.stability, math.inf, start, "2, the edge of stability,")


def beyond(errors: pd.DataFrame, start: int, end: float, calm: int, meaning: str) -> str:
    """One such sentence: error and bar of the highest order in [``start``, ``end``), and before ``calm``."""
    head = f"lr × sharpness reached {meaning} at step {start}"
    there = errors.loc[(errors.step >= start) & (errors.step < end)]
    if there.empty:
        return f"{head}; there are no predictions from there on."
    best = highest_order(errors)
    now, before = relative(there, best), relative(errors.loc[errors.step < calm], best)
    flow = relative(there, "order-0")
    verdict = "still held" if holds(now, best, flow) else "stopped holding"
    until = "from there on" if math.isinf(end) else f"from there to step {end:g}"
    return (
        f"{head}: {until} the bar of {source_name(best)} is {share(now.bar, before.bar)} of the rate, "
        f"its error {share(now.error, before.error)}, gradient flow's {percent(flow.error)}, the "
        f"measurement's bar {percent(now.measured_bar)}: the prediction {verdict}."
    )


def holds(now: "Relative", source: str, flow: "Relative") -> bool:
    """Whether error and bar are small against the rate, and the error smaller than gradient flow's."""
    bar = 0.0 if math.isnan(now.bar) else now.bar  # no bars were asked for
    return now.error <= HOLDS and bar <= HOLDS and (source == "order-0" or now.error < flow.error)


def share(now: float, before: float) -> str:
    return percent(now) + (f" ({percent(before)} before)" if math.isfinite(before) else "")


class Relative(NamedTuple):
    """Median error and bars over the size of the rate."""

    error: float
    bar: float
    measured_bar: float


def relative(errors: pd.DataFrame, source: str) -> Relative:
    own = errors.loc[errors.source == source]
    size = own.reference.abs().where(own.reference != 0)
    return Relative(*(float((own[c].abs() / size).median()) for c in ("error", "bar", "reference_bar")))


def highest_order(errors: pd.DataFrame) -> str:
    return max(orders(errors), default="order-0")
