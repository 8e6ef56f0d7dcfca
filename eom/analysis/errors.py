"""Errors of the predictions of a run, by quantity, layer and order."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from eom.analysis.reading import AnyRun, Reading

REFERENCES = ["measured", "look-ahead"]  # in order of preference
RATE, DISPLACEMENT = "norm_squared_rate", "norm_squared_displacement"


def prediction_errors(run: AnyRun | pd.DataFrame, quantity: str = RATE) -> pd.DataFrame:
    """Error = value - reference of every predicted value of ``quantity`` that has a reference.

    The reference is the measured value where it is finite, else the look-ahead. The position after a horizon
    is recorded as a distance from the run, so that its reference is 0.

    Returns:
        One row per prediction. In the unit of ``quantity``: ``value``, ``bar``, ``reference``,
        ``reference_bar``, ``error``, and ``flow``, the size of gradient flow's error at the same record.
        Without unit: ``step``, ``time``, ``group``, ``source``, ``reference_source``; ``resolved``, 1 where
        the error is larger than the measurement's bar; ``covered``, 1 where it is within twice its own bar
        plus that of the measurement; NaN where there is nothing to judge by.
    """
    if isinstance(run, pd.DataFrame):
        return errors_in(run, quantity)
    reading = Reading.of(run)
    if quantity not in reading.errors:
        reading.errors[quantity] = errors_in(reading.table(), quantity)
    return reading.errors[quantity]


def errors_in(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    rows = table.loc[table.quantity == quantity].drop(columns="quantity")
    codes, groups = pd.factorize(rows.group)
    rows.index = pd.Index(rows.step * len(groups) + codes)  # one number for each step and group
    refers = rows.source.isin(REFERENCES)
    reference = rows.loc[refers & np.isfinite(rows.value), ["source", "value", "bar"]]
    reference = pd.concat([reference.loc[reference.source == source] for source in REFERENCES])
    reference = reference.loc[~reference.index.duplicated()]
    errors = rows.loc[~refers]
    if quantity == "position_error":
        errors = errors.assign(reference_source="measured", reference=0.0, reference_bar=0.0)
    else:
        errors = errors.loc[errors.index.isin(reference.index)]
        at = reference.reindex(errors.index)
        errors = errors.assign(reference_source=at.source, reference=at.value, reference_bar=at.bar)
    errors["error"] = errors.value - errors.reference
    size, margin = errors.error.abs(), errors.reference_bar.fillna(0.0)
    flow = size.loc[errors.source == "order-0"]
    return errors.assign(
        flow=flow.loc[~flow.index.duplicated()].reindex(errors.index),
        resolved=(size > margin).astype(float).where(size.notna()),
        covered=(size <= 2 * errors.bar + margin).astype(float).where(size.notna() & errors.bar.notna()),
    ).reset_index(drop=True)


def orders(rows: pd.DataFrame) -> list[str]:
    """The corrected flows among the sources of a table, by order."""
    return sorted(source for source in rows.source.unique() if source.startswith("order-"))


def layer_table(run: AnyRun, quantity: str = RATE) -> pd.DataFrame:
    """What each source got wrong, by layer: medians over the records, in the unit of ``quantity``.

    Returns:
        Index (group, source) in the order of the model. Columns: ``records``; ``measured``, the median of the
        reference, ``magnitude``, of its size, and ``measured_bar``, of its bar; ``predicted``, the median of what
        the source says, ``error``, of the size of its error, and ``bar``, of the estimate of that; ``over_flow``,
        the error over gradient flow's at the same record; ``resolved``, the share of errors larger than the
        measurement's bar; ``covered``, the share within twice the bar plus that of the measurement.
    """
    reading = Reading.of(run)
    table = by_layer(prediction_errors(reading, quantity))
    order = [(g, s) for g in reading.groups for s in table.index.unique("source") if (g, s) in table.index]
    return table.loc[order]


def by_layer(errors: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``layer_table`` over these ``prediction_errors``, layers in no order."""
    size = errors.error.abs()
    sizes = errors.assign(
        size=size,
        magnitude=errors.reference.abs(),
        over_flow=size / errors.flow.where(errors.flow > 0),
    )
    return sizes.groupby(["group", "source"], observed=True, sort=False).agg(
        records=("size", "count"),
        measured=("reference", "median"),
        magnitude=("magnitude", "median"),
        measured_bar=("reference_bar", "median"),
        predicted=("value", "median"),
        error=("size", "median"),
        bar=("bar", "median"),
        over_flow=("over_flow", "median"),
        resolved=("resolved", "mean"),
        covered=("covered", "mean"),
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
    rows = errors.loc[errors.source == source]
    rows = rows.loc[np.isfinite(rows.error) & np.isfinite(rows.flow)]
    counts = (rows.flow >= 0.01 * rows.reference.abs()) | (rows.flow >= 100 * rows.reference_bar)
    ratio = (rows.error.abs() / rows.flow).loc[counts & (rows.flow > 0)]
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

    def at(self, steps: pd.Series) -> np.ndarray:
        """The value at these steps, carried on from the record before; NaN before the first."""
        place = np.searchsorted(self.path.step, steps, side="right")
        return np.concatenate([[np.nan], self.path.value])[place]

    def below(self, steps: pd.Series) -> np.ndarray:
        """Where the value at these steps is below 1, or not known."""
        return ~(self.at(steps) >= 1)


def edge(run: AnyRun) -> Edge:
    """Where a run stands against the edge of stability; its sharpness is carried on between records."""
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
