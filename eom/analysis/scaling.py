"""How the errors of the predictions grow with the learning rate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from eom.analysis.errors import RATE, edge, orders, prediction_errors
from eom.analysis.reading import Reading

CONFIDENCE = 0.95


class Slope(NamedTuple):
    """Of log error over log learning rate, with a confidence interval; ``runs`` and common ``times`` it rests on."""

    slope: float
    low: float
    high: float
    runs: int
    times: int


def common_errors(readings: Sequence[Reading]) -> pd.DataFrame:
    """Errors of the predicted rates of each layer where all runs have a record: at common times.

    The times are those of the run with the fewest records while all runs last; of every other run the nearest record
    is taken. Left out are records where lr x sharpness is at or above 1, or that are farther than half the distance
    between two times.

    Returns:
        Columns ``run``, its place in ``readings``; ``place``, of the common time; ``time``, ``lr``, ``group``,
        ``source``; ``error`` and ``reference``, their sizes; ``bar``; ``resolved``.
    """
    found = [_calm(reading) for reading in readings]
    if any(errors.empty for errors in found):
        return pd.DataFrame()
    clocks = [np.sort(errors.time.unique()) for errors in found]
    end = min(times[-1] for times in clocks)
    within = [times[times <= end * (1 + 1e-9)] for times in clocks]
    common = min(within, key=len)
    gap = np.diff(common).min() if len(common) > 1 else np.inf
    parts = []
    for k, (errors, times) in enumerate(zip(found, clocks, strict=True)):
        nearest = np.abs(times[:, None] - common[None, :]).argmin(axis=0)
        near = np.abs(times[nearest] - common) <= gap / 2
        place = pd.Series(np.flatnonzero(near), index=times[nearest[near]])
        rows = errors.loc[errors.time.isin(place.index)]
        parts.append(rows.assign(run=k, place=place.reindex(rows.time).to_numpy()))
    return pd.concat(parts, ignore_index=True)


def _calm(reading: Reading) -> pd.DataFrame:
    """Errors of the orders in every layer, with the learning rate, where the series behind them converges."""
    errors = prediction_errors(reading, RATE)
    errors = errors.loc[errors.source.isin(orders(errors)) & errors.group.isin(reading.layers)]
    errors = errors.loc[edge(reading).below(errors.step)]
    lr = reading.measured("lr").set_index("step").value
    return pd.DataFrame(
        {
            "time": errors.time,
            "lr": lr.reindex(errors.step).to_numpy(),
            "group": errors.group.astype(str),
            "source": errors.source.astype(str),
            "error": errors.error.abs(),
            "reference": errors.reference.abs(),
            "bar": errors.bar,
            "resolved": errors.resolved,
        }
    )


def slopes(errors: pd.DataFrame) -> pd.DataFrame:
    """The ``Slope`` of every layer and order, index (group, source)."""
    if errors.empty:
        return pd.DataFrame(columns=list(Slope._fields))
    found = {key: slope(rows) for key, rows in errors.groupby(["group", "source"], sort=False)}
    table = pd.DataFrame.from_dict(found, orient="index", columns=list(Slope._fields))
    return table.set_index(pd.MultiIndex.from_tuples(table.index, names=["group", "source"]))


def slope(errors: pd.DataFrame) -> Slope:
    """Fit log error = a_j + p log lr over the runs i at the common times j, and say how sure p is.

    Errors of one run at several times are not independent, so each run counts once: by its mean over the times at
    which every run's error is larger than the measurement's bar.
    """
    own = errors.loc[(errors.resolved == 1) & (errors.error > 0)]
    runs = own.run.nunique()
    whole = own.groupby("place").run.transform("nunique") == errors.run.nunique()
    own = own.loc[whole]
    nothing = Slope(np.nan, np.nan, np.nan, runs if whole.any() else 0, 0)
    if own.empty or runs < 2:
        return nothing
    logs = pd.DataFrame({"place": own.place, "run": own.run, "x": np.log(own.lr), "y": np.log(own.error)})
    logs[["x", "y"]] -= logs.groupby("place")[["x", "y"]].transform("mean")
    means = logs.groupby("run")[["x", "y"]].mean()
    if float(means.x.abs().max()) < 1e-9:  # all of the same learning rate
        return nothing
    times = own.place.nunique()
    fit = stats.linregress(means.x, means.y)
    if runs == 2:
        return Slope(float(fit.slope), np.nan, np.nan, runs, times)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, runs - 2)) * float(fit.stderr)
    return Slope(float(fit.slope), float(fit.slope) - reach, float(fit.slope) + reach, runs, times)


class Largest(NamedTuple):
    """The largest learning rate that keeps an error: as seen in the runs, and as their error bars predict it."""

    seen: float
    beyond: bool  # every run keeps it, so that the rate may be larger still
    predicted: float


def largest(errors: pd.DataFrame, source: str, wanted: float) -> Largest:
    """Where the relative error of an order, the median over layers and common times, passes ``wanted``.

    Between two runs log error is taken to be straight over log lr. The prediction takes the bar of each run, which
    grows as lr^(k + 1), for the error.
    """
    own = errors.loc[(errors.source == source) & (errors.reference > 0)]
    order = int(source.removeprefix("order-"))
    relative = pd.DataFrame({"error": own.error / own.reference, "bar": own.bar / own.reference, "lr": own.lr})
    by_run = relative.groupby(own.run).median().sort_values("lr")
    bars = by_run.loc[by_run.bar > 0]
    scaled = bars.lr * (wanted / bars.bar) ** (1 / (order + 1))
    predicted = float(scaled.iloc[0]) if len(scaled) else np.nan  # of the smallest rate, where the bar is truest
    kept = by_run.error <= wanted
    if not len(by_run) or not kept.iloc[0]:
        return Largest(np.nan, False, predicted)
    if kept.all():
        return Largest(float(by_run.lr.iloc[-1]), True, predicted)
    first = int(np.argmin(kept.to_numpy()))
    (x0, x1), (y0, y1) = (np.log(by_run[name].iloc[first - 1 : first + 1].to_numpy()) for name in ("lr", "error"))
    share = (np.log(wanted) - y0) / (y1 - y0)
    return Largest(float(np.exp(x0 + share * (x1 - x0))), False, predicted)
