"""What a run says, in sentences with their numbers."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from eom.analysis.errors import DISPLACEMENT, RATE, Edge, by_layer, edge, gain, orders, prediction_errors
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.stability import beyond_edge, sampled
from eom.analysis.words import count, label, number, percent, source_name

WORST = 3  # layers named one by one
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
    calm = errors.loc[limits.below(errors.step)]
    return [
        *course(reading),
        *withheld(reading),
        *scope(calm, errors),
        *worst_layers(calm),
        *pooled(calm),
        *displaced(reading, limits),
        *sampled(reading),
        *beyond_edge(errors, limits),
        *noise(reading),
    ]


def noise(reading: Reading) -> Iterator[str]:
    """What the gradient noise was where it was measured last."""
    last = {
        end: rows.iloc[-1]
        for end in ("", "_scale", "_top", "_curvature", "_tail")
        if len(rows := reading.measured(f"gradient_noise{end}"))
    }
    if "" not in last:
        return
    parts = [f"the noise of one sample's gradient has the variance {number(last[''].value)}"]
    if "_scale" in last:
        parts.append(f"that of a batch of {number(last['_scale'].value)} is as large as the gradient of all data")
    if "_top" in last:
        parts.append(f"{percent(last['_top'].value)} of it lies along one direction")
    if "_curvature" in last:
        parts.append(f"it meets a curvature of {number(last['_curvature'].value)}")
    if "_tail" in last:
        rows = reading.table()
        a, bar = last["_tail"].value, float(rows.loc[rows.quantity == "gradient_noise_tail"].bar.iloc[-1])
        says = "which does not tell whether its variance is finite"
        if a + bar < 2:
            says = "so heavy that no Gaussian noise describes it"
        if a - bar > 2:
            says = "above 2, so that its variance is finite"
        parts.append(f"its tail index is {number(a)} ± {number(bar)}, {says}")
    yield f"At step {int(last[''].step)}, where it was measured last, {'; '.join(parts)}."


def scope(calm: pd.DataFrame, errors: pd.DataFrame) -> Iterator[str]:
    """Which records the numbers that follow are taken from."""
    if calm.empty:
        return
    kept, all_of_them = calm.step.nunique(), errors.step.nunique()
    if kept < all_of_them:
        verb = "is" if kept == 1 else "are"
        yield (
            f"The next numbers are from the {kept} of {count(all_of_them, 'record')} that {verb} below "
            "lr × sharpness = 1."
        )
    looked = float((calm.reference_source == "look-ahead").mean())
    if looked > 0:
        yield (
            f"In {percent(looked)} of the cases the run did not go on with steps like the record's own (but with "
            "another batch, learning rate or random draw), so the rate is that of a look-ahead: gradient descent on "
            "the record's batch, from there on."
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
    medians: Medians = by_layer(errors).to_dict("index")  # type: ignore[assignment] - pandas types keys as hashables
    flow = {group: m["error"] for (group, source), m in medians.items() if source == "order-0" and m["records"]}
    best = max(orders(errors), default="order-0")
    for group in sorted(flow, key=lambda g: flow[g], reverse=True)[:WORST]:
        m = medians[group, "order-0"]
        of_rate = m["error"] / m["magnitude"] if m["magnitude"] else math.nan
        text = f"Gradient flow misses d|w|²/dt of {label(group, 60)} by {miss(m, percent(of_rate))}"
        if best != "order-0" and (group, best) in medians:
            text += f", {source_name(best)} by {miss(medians[group, best])}"
        known = math.isfinite(m["measured_bar"])
        yield text + (f"; the measurement's own bar is {number(m['measured_bar'])}." if known else ".")


def miss(m: dict[str, float], share: str = "") -> str:
    """An error per unit time, and which share of the rate it is; or that it is too small to be seen."""
    if m["error"] <= m["measured_bar"]:
        return "no more than can be measured"
    return f"{number(m['error'])} per unit time" + (f" ({share} of the rate)" if share else "")


def pooled(errors: pd.DataFrame) -> Iterator[str]:
    """Over all layers: how much is resolved, whether the bars were honest, the gain over gradient flow."""
    for source in orders(errors):
        own = errors.loc[errors.source == source]
        name = source_name(source)
        resolved, covered = float(own.resolved.mean()), float(own.covered.mean())
        text = f"Over {count(own.group.nunique(), 'weight tensor')} and {count(own.step.nunique(), 'record')} "
        text += f"the error of {name} is larger than the measurement's bar in {percent(resolved)} of the cases"
        if math.isfinite(covered):
            text += f", and within twice its own bar plus the measurement's in {percent(covered)}"
        yield text + "."
        won = gain(errors, source)
        if source != "order-0" and won.share:
            yield (
                f"The error of {name} is {percent(won.median)} of gradient flow's in the median and "
                f"{percent(won.p90)} at the 90th percentile, where gradient flow's is at least 1 % of the "
                f"rate or 100 times the measurement's bar ({percent(won.share)} of the cases)."
            )


def displaced(reading: Reading, limits: Edge) -> Iterator[str]:
    """How far from the run the flows arrive, by order."""
    horizon = reading.settings.get("horizon")
    after = f"After {count(horizon, 'step')}" if horizon else "After the horizon"
    for quantity, text in (
        ("position_error", "{} the weights of {} end {} from the run's"),
        (DISPLACEMENT, "{} {} misses the change of |w|² by {}"),
    ):
        errors = prediction_errors(reading, quantity)
        errors = errors.loc[(errors.group == "all") & limits.below(errors.step)]
        medians = [
            (source_name(source), number(errors.error.loc[errors.source == source].abs().median()))
            for source in orders(errors)
        ]
        if medians:
            said = [text.format(after, *medians[0]), *(f"{name} {median}" for name, median in medians[1:])]
            yield f"{', '.join(said)} (all parameters, median over {count(errors.step.nunique(), 'start')})."
