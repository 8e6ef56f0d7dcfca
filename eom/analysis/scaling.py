"""How the errors of the predictions grow with the learning rate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from eom.analysis.errors import RATE, edge, orders, prediction_errors
from eom.analysis.reading import Reading

CONFIDENCE = 0.95
PLACES = 50  # times at most at which runs are compared


def layer_errors(reading: Reading) -> pd.DataFrame:
    """``prediction_errors`` of the rates in the layers by the orders, with the learning rate ``lr`` of each record.

    ``counts`` says where lr x sharpness is below 1, so that the series behind measurement and prediction converges, and
    the error is above the measurement's bar.
    """
    errors = prediction_errors(reading, RATE)
    errors = errors.loc[errors.source.isin(orders(errors)) & errors.group.isin(reading.layers)]
    lr = reading.measured("lr").set_index("step").value
    counts = edge(reading).below(errors.step) & (errors.resolved == 1)
    return errors.assign(lr=lr.reindex(errors.step).to_numpy(), counts=counts)


def common_errors(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Size of the errors of each layer and order at common times, given the ``layer_errors`` of runs that start alike.

    The times are those at which any run has a record; each other run that was recorded before and after gives its error
    by interpolation of its logarithm, where it has the same sign at both and ``counts``.

    Returns:
        Columns ``run``, its place in ``runs``; ``time``, ``lr``, ``group``, ``source``; ``error`` > 0.
    """
    times = np.unique(np.concatenate([errors.time for errors in runs])) if runs else np.array([])
    times = times[np.linspace(0, len(times) - 1, min(PLACES, len(times))).round().astype(int)]
    parts = []
    for run, errors in enumerate(runs):
        for (group, source), rows in errors.groupby(["group", "source"], observed=True, sort=False):  # type: ignore[misc] - pandas types keys as hashables
            at, lr, error = interpolated(rows, times)
            parts.append({"run": run, "time": at, "lr": lr, "group": str(group), "source": str(source), "error": error})
    sizes = [len(part["time"]) for part in parts]
    names = ("run", "time", "lr", "group", "source", "error")
    if not parts:
        return pd.DataFrame(columns=list(names))
    whole = {
        name: np.concatenate([np.broadcast_to(p[name], n) for p, n in zip(parts, sizes, strict=True)]) for name in names
    }
    return pd.DataFrame(whole)


def interpolated(rows: pd.DataFrame, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time, lr and error of one layer and order at those ``times`` that lie between two records."""
    own, lr, error, counts = (rows[name].to_numpy() for name in ("time", "lr", "error", "counts"))
    order = np.argsort(own, kind="stable")
    own, lr, error = own[order], lr[order], np.where(counts, error, np.nan)[order]
    times = times[(times >= own[0]) & (times <= own[-1])]
    after = np.searchsorted(own, times)
    before = np.where(own[after] == times, after, after - 1)
    width = own[after] - own[before]
    share = np.divide(times - own[before], width, out=np.zeros_like(times), where=width > 0)
    same = (error[before] * error[after] > 0) & (lr[before] * lr[after] > 0)
    with np.errstate(divide="ignore"):
        logs = np.log(lr), np.log(np.abs(error))
    at_lr, at_error = (np.exp((1 - share) * values[before] + share * values[after]) for values in logs)
    return times[same], at_lr[same], at_error[same]


class Slope(NamedTuple):
    """Of log error over log learning rate, with a confidence interval; ``runs`` and common ``times`` it rests on."""

    slope: float
    low: float
    high: float
    runs: int
    times: int


def slopes(errors: pd.DataFrame) -> pd.DataFrame:
    """The ``Slope`` of every layer and order over ``common_errors``, index (group, source)."""
    found = {key: slope(rows) for key, rows in errors.groupby(["group", "source"], sort=False)}
    groups, sources = zip(*found, strict=True) if found else ((), ())  # type: ignore[misc] - pandas types keys as hashables
    index = pd.MultiIndex.from_arrays([groups, sources], names=["group", "source"])
    return pd.DataFrame(list(found.values()), index=index, columns=list(Slope._fields))


def slope(errors: pd.DataFrame) -> Slope:
    """Fit log error = a_j + p log lr, with a level of its own for each layer and common time j; and how sure p is.

    Errors of one run at several times are not independent, so the interval is that of a jackknife over runs.

    Source: Efron & Stein, The jackknife estimate of variance, Ann. Stat. 9(3), 1981.
    """
    errors = shared(errors)
    run, place = errors.run.to_numpy(), places(errors)
    x, y = np.log(errors.lr.to_numpy()), np.log(errors.error.to_numpy())
    runs, times = np.unique(run), errors.time.nunique()
    whole, g = _fit(place, x, y), len(runs)
    if np.isnan(whole) or g < 3:
        return Slope(whole, np.nan, np.nan, g, times)
    without = np.array([_fit(*(z[run != one] for z in (place, x, y))) for one in runs])
    deviation = np.sqrt((g - 1) / g * np.sum((without - without.mean()) ** 2))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, g - 1)) * deviation
    return Slope(whole, whole - reach, whole + reach, g, times)


def _fit(place: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """The common slope of y over x within the places."""
    x, y = levelled(x, place), levelled(y, place)
    spread = float(x @ x)
    return float(x @ y) / spread if spread > 1e-12 else np.nan  # no two of them at different learning rates


def run_means(errors: pd.DataFrame, slope: float) -> pd.DataFrame:
    """``lr``, ``error`` and ``fitted`` of every run: the means of its logarithms, the levels of the fit taken out."""
    errors = shared(errors)
    x = np.log(errors.lr)
    level = np.log(errors.error) - slope * x
    off = pd.Series(levelled(level.to_numpy(), places(errors)), errors.index).groupby(errors.run).mean()
    lr = x.groupby(errors.run).mean().sort_values()
    fitted = level.mean() + slope * lr
    return pd.DataFrame({"lr": np.exp(lr), "error": np.exp(fitted + off), "fitted": np.exp(fitted)}, lr.index)


def shared(errors: pd.DataFrame) -> pd.DataFrame:
    """Those of the ``common_errors`` that have another run beside them."""
    return errors.loc[errors.groupby(["time", "group"], sort=False).run.transform("nunique") > 1]


def places(errors: pd.DataFrame) -> np.ndarray:
    """A number for each layer and common time, which have a level of their own in a fit."""
    return errors.groupby(["time", "group"], sort=False).ngroup().to_numpy()


def levelled(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``values`` less the mean of their place."""
    return values - (np.bincount(place, values) / np.maximum(np.bincount(place), 1))[place]


def relative_errors(reading: Reading, errors: pd.DataFrame) -> pd.DataFrame:
    """Of each order over all records of a run, in the layer where it is worst; given its ``layer_errors``.

    Index ``source``. ``error``, the error over the rate, both as root mean squares, so that neither a rate that passes
    zero nor a long time in which nothing moves decides, of the layers where it is larger than the measurement's bar
    (NaN where it nowhere is); ``bar``, what the order's own bar says of it; ``step``, what the next term says of one
    step, over the length of that step, lr |H g| / (2 |g|) for gradient flow, as root mean square.
    """
    known = errors.loc[np.isfinite(errors.error) & np.isfinite(errors.reference)]
    squares = known[["error", "bar", "reference", "reference_bar"]].pow(2)
    means = squares.groupby([known.group, known.source], observed=True).mean().pow(0.5)
    means["error"] = means.error.where(~(means.error <= means.reference_bar))
    shares = means[["error", "bar"]].div(means.reference.where(means.reference > 0), axis=0)
    found = shares.groupby("source", observed=True).max()
    steps = reading.table().loc[lambda rows: rows.quantity == "step_error"]
    return found.assign(step=steps.value.pow(2).groupby(steps.source, observed=True).mean().pow(0.5))


class Rate(NamedTuple):
    """A learning rate; ``bound`` says that the true one may lie above (">") or below ("<") it."""

    value: float
    bound: str = ""


class Largest(NamedTuple):
    """The largest learning rate that keeps an error: ``seen`` in the runs, and by theory.

    ``bars``: where the predictions' own bars pass it; ``step``: where one step of the flow passes it, for gradient flow
    lr < 2 x wanted |g| / |H g|, which is lr < sqrt(2 eps / |H g|) with eps that share of the step lr |g|.
    """

    seen: Rate
    bars: Rate
    step: Rate


def largest(shares: pd.DataFrame, source: str, wanted: float) -> Largest:
    """Where the error of an order passes ``wanted``, given ``relative_errors`` with columns ``lr`` and ``source``."""
    own = shares.loc[shares.source == source].sort_values("lr")
    return Largest(*(crossing(own, column, wanted) for column in ("error", "bar", "step")))


def crossing(shares: pd.DataFrame, column: str, wanted: float) -> Rate:
    """The rate up to which ``column`` is at most ``wanted``; between two runs its log is straight over log lr."""
    own = shares.loc[np.isfinite(shares[column]) & (shares[column] > 0)]
    if own.empty:
        return Rate(np.nan)
    lr, share = own.lr.to_numpy(), own[column].to_numpy()
    if (share <= wanted).all():
        return Rate(float(lr[-1]), ">")
    first = int(np.argmax(share > wanted))
    if first == 0:
        return Rate(float(lr[0]), "<")
    (x0, x1), (y0, y1) = np.log(lr[first - 1 : first + 1]), np.log(share[first - 1 : first + 1])
    return Rate(float(np.exp(x0 + (np.log(wanted) - y0) / (y1 - y0) * (x1 - x0))))
