"""Errors of the predictions of a run, by quantity, layer and order."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from eom.analysis.reading import AnyRun, Reading

REFERENCES = ["measured", "look-ahead"]  # in order of preference
RATE = "norm_squared_rate"


def prediction_errors(run: AnyRun | pd.DataFrame, quantity: str = RATE) -> pd.DataFrame:
    """Error = value - reference of every predicted value of ``quantity`` that has a reference.

    The reference is the measured value where it is finite, else the look-ahead. The position after a horizon
    is recorded as a distance from the run, so that its reference is 0.

    Returns:
        One row per prediction: step, time, group, source, value, bar, reference_source, reference,
        reference_bar, error, in the unit of ``quantity``.
    """
    table = run if isinstance(run, pd.DataFrame) else Reading.of(run).table()
    rows = table.loc[table.quantity == quantity].drop(columns="quantity")
    predicted = rows.loc[~rows.source.isin(REFERENCES)]
    if quantity == "position_error":
        errors = predicted.assign(reference_source="measured", reference=0.0, reference_bar=0.0)
    else:
        finite = rows.loc[np.isfinite(rows.value)]
        preferred = pd.concat([finite.loc[finite.source == source] for source in REFERENCES])
        reference = preferred.drop_duplicates(["step", "group"])[["step", "group", "source", "value", "bar"]]
        reference.columns = ["step", "group", "reference_source", "reference", "reference_bar"]
        errors = predicted.merge(reference, on=["step", "group"])
    return errors.assign(error=errors.value - errors.reference)


def layer_table(run: AnyRun, quantity: str = RATE) -> pd.DataFrame:
    """What each source got wrong, by layer: medians over the records, in the unit of ``quantity``.

    Returns:
        Index (group, source) in the order of the model. Columns: ``records``; ``measured``, the median size
        of the reference, and ``measured_bar``, its bar; ``error``, the median size of the error, and ``bar``,
        of its estimate; ``over_flow``, the error over gradient flow's at the same record; ``resolved``, the
        share of errors larger than the measurement's bar; ``covered``, the share within twice the bar plus
        that of the measurement.
    """
    reading = Reading.of(run)
    table = by_layer(prediction_errors(reading, quantity))
    order = [(g, s) for g in reading.groups for s in table.index.unique("source") if (g, s) in table.index]
    return table.loc[order]


def by_layer(errors: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``layer_table`` over these ``prediction_errors``, layers in no order."""
    groups = judged(errors).groupby(["group", "source"], observed=True, sort=False)
    return groups.agg(
        records=("size", "count"),
        measured=("reference_size", "median"),
        measured_bar=("reference_bar", "median"),
        error=("size", "median"),
        bar=("bar", "median"),
        over_flow=("over_flow", "median"),
        resolved=("resolved", "mean"),
        covered=("covered", "mean"),
    )


def judged(errors: pd.DataFrame) -> pd.DataFrame:
    """Errors with their size, that of the reference, that of gradient flow's error, and the ratio to it.

    ``resolved`` and ``covered`` are 1 or 0, and NaN where there is no error, or no bar, to judge by.
    """
    size = errors.error.abs()
    margin = errors.reference_bar.fillna(0.0)
    flow = errors.loc[errors.source == "order-0", ["step", "group", "error"]]
    flow = errors[["step", "group"]].merge(flow, on=["step", "group"], how="left").error.abs().to_numpy()
    return errors.assign(
        size=size,
        reference_size=errors.reference.abs(),
        flow=flow,
        over_flow=size / np.where(flow > 0, flow, np.nan),
        resolved=(size > margin).astype(float).where(size.notna()),
        covered=(size <= 2 * errors.bar + margin).astype(float).where(size.notna() & errors.bar.notna()),
    )


class Gain(NamedTuple):
    """Error over gradient flow's, its median and 90th percentile, where gradient flow's counts.

    It counts where it is at least 1 % of the rate, or 100 times the measurement's bar: a ``share`` of the
    ``records``.
    """

    median: float
    p90: float
    share: float
    records: int


def gain(errors: pd.DataFrame, source: str = "order-1") -> Gain:
    """How much smaller the errors of ``source`` are than gradient flow's, over ``prediction_errors``."""
    rows = judged(errors)
    rows = rows.loc[(rows.source == source) & np.isfinite(rows["size"]) & np.isfinite(rows.flow)]
    counts = (rows.flow >= 0.01 * rows.reference_size) | (rows.flow >= 100 * rows.reference_bar)
    ratio = rows.over_flow.loc[counts].dropna()
    if ratio.empty:
        return Gain(np.nan, np.nan, 0.0, len(rows))
    return Gain(float(ratio.median()), float(ratio.quantile(0.9)), len(ratio) / len(rows), len(rows))


class Edge(NamedTuple):
    """lr times the largest Hessian eigenvalue along a run: columns step, time, value.

    ``radius`` is the first recorded step at which it reaches 1, where the log map ceases to converge, and
    ``stability`` the first at which it reaches 2, the edge of stability; None where it does not.
    """

    path: pd.DataFrame
    radius: int | None
    stability: int | None


def edge(run: AnyRun) -> Edge:
    """Where the run stands against the edge of stability; sharpness is carried forward between its records."""
    reading = Reading.of(run)
    sharpness, lr = reading.measured("sharpness"), reading.measured("lr")
    if lr.empty:
        lr = sharpness.assign(value=reading.settings.get("reference_lr", np.nan))
    both = lr.merge(sharpness, on=["step", "time"], how="outer", suffixes=("_lr", ""))
    both["value"] = both.value_lr.ffill() * both.value.ffill()
    path = both.loc[both.value.notna(), ["step", "time", "value"]]

    def first(limit: float) -> int | None:
        beyond = path.step.loc[path.value >= limit]
        return None if beyond.empty else int(beyond.iloc[0])

    return Edge(path, first(1.0), first(2.0))
