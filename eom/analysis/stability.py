"""What a run says of its predictions where lr times sharpness is beyond 1, and beyond 2."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from eom.analysis.errors import Edge, orders
from eom.analysis.reading import Reading
from eom.analysis.words import count, percent, source_name

HOLDS = 0.1  # a prediction fails where its error or its bar is above this share of the rate


def sampled(reading: Reading) -> Iterator[str]:
    """At how many records the sharpness is known, where not at all."""
    known, records = len(reading.measured("sharpness")), reading.rows.step.nunique()
    if 0 < known < records:
        yield (
            f"The sharpness was measured at {known} of {count(records, 'record')}, and is taken to stay the same from "
            "one to the next: what is said of lr × sharpness is that coarse (sharpness=1 measures it at each)."
        )


def beyond_edge(errors: pd.DataFrame, limits: Edge) -> Iterator[str]:
    """One sentence for the records from 1 to 2, and one for those from 2 on, where there are any."""
    calm = errors.loc[limits.below(errors.step)]
    at = limits.at(errors.step)
    path = limits.path.value
    between = path.loc[(path >= 1) & (path < 2)]
    if limits.radius is not None and len(between):
        head = f"lr × sharpness reached 1, where the log map need not converge any more, by step {limits.radius}"
        yield f"{head}: {there(errors.loc[(at >= 1) & (at < 2)], calm, 'between 1 and 2')}"
    if limits.stability is not None:
        head = f"lr × sharpness reached 2, the edge of stability, by step {limits.stability}"
        yield f"{head}: {there(errors.loc[at >= 2], calm, 'at or above 2')}"


def there(errors: pd.DataFrame, calm: pd.DataFrame, where: str) -> str:
    """Error and bars of the highest order in these records, beside those of the records below 1."""
    if errors.empty:
        return f"there are no predictions {where}."
    best = max(orders(errors), default="order-0")
    now, before, flow = relative(errors, best), relative(calm, best), relative(errors, "order-0")
    verdict = "still held"
    if now.failed > 0:
        verdict = f"stopped holding in {beside(now.failed, before.failed)} of the cases, its error or bar being "
        verdict += f"above {percent(HOLDS)} of the rate"
    return (
        f"in {count(errors.step.nunique(), 'record')} {where} the bar of {source_name(best)} is "
        f"{beside(now.bar, before.bar)} of the rate, its error {beside(now.error, before.error)}, gradient flow's "
        f"{percent(flow.error)}, the measurement's bar {percent(now.measured_bar)}: the prediction {verdict}."
    )


class Relative(NamedTuple):
    """Median error and bars over the size of the rate, and the share of predictions that fail."""

    error: float
    bar: float
    measured_bar: float
    failed: float


def relative(errors: pd.DataFrame, source: str) -> Relative:
    own = errors.loc[errors.source == source]
    size = own.reference.abs().where(own.reference != 0)
    error, bar, measured_bar = (own[name].abs() / size for name in ("error", "bar", "reference_bar"))
    failed = (error > HOLDS) | (bar > HOLDS)
    return Relative(float(error.median()), float(bar.median()), float(measured_bar.median()), float(failed.mean()))


def beside(now: float, before: float) -> str:
    return percent(now) + (f" (where it is below 1: {percent(before)})" if math.isfinite(before) else "")
