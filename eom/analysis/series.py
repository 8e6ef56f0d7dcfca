"""What the figures of a run show: series by layer and source, thinned to what a screen can show."""

import numpy as np
import pandas as pd

from eom.analysis.errors import RATE, REFERENCES, orders, prediction_errors
from eom.analysis.reading import Reading
from eom.analysis.words import quantity_name, source_name

POINTS = 400  # per line; a panel is about 300 pixels wide
PANELS = 6
OWN = (  # what every tracker records
    "loss", "penalty", "gradient_norm", "update_mismatch", "sharpness", "norm", "norm_squared", "position_error",
)  # fmt: skip
HEAT_ROWS, HEAT_COLUMNS = 40, 300


def thin(frame: pd.DataFrame, by: list[str], points: int = POINTS) -> pd.DataFrame:
    """At most ``points`` rows of each line: the smallest and the largest value of every stretch of steps."""
    parts = []
    for _, line in frame.groupby(by, observed=True, sort=False):
        line = line.sort_values("step")
        if len(line) > points:
            stretch = np.arange(len(line)) * (points // 2) // len(line)
            values = line.value.reset_index(drop=True).groupby(stretch)
            kept = np.union1d(values.idxmin().dropna(), values.idxmax().dropna())
            line = line.iloc[kept.astype(int)]
        parts.append(line)
    return pd.concat(parts, ignore_index=True) if parts else frame


def leading(reading: Reading, quantity: str, panels: int = PANELS) -> list[str]:
    """The layers in which ``quantity`` is largest, in the model's order."""
    rows = reading.table()
    own = rows.loc[(rows.quantity == quantity) & rows.group.isin(reading.layers)]
    own = own.loc[own.source.isin(REFERENCES)]
    size = own.value.abs().groupby(own.group, observed=True).median()
    largest = set(size.sort_values(ascending=False).index[:panels])
    return [layer for layer in reading.layers if layer in largest]


def values(reading: Reading, quantity: str) -> pd.DataFrame:
    """panel, unit, step, value, source, kind of what was measured and predicted in the leading layers."""
    rows = reading.table()
    layers = leading(reading, quantity)
    own = rows.loc[(rows.quantity == quantity) & rows.group.isin(layers)]
    own = own.loc[own.source.isin([*REFERENCES, *orders(own)])]
    return lines(own.assign(panel=own.group, kind="value"), reading.unit(quantity))


def errors(reading: Reading, quantity: str = RATE) -> pd.DataFrame:
    """panel, unit, step, value, source, kind of errors and bars in the leading layers, all positive."""
    position = quantity == "position_error"
    found = prediction_errors(reading, quantity)
    found = found.loc[found.source.isin(orders(found))]
    found = found.loc[found.group.isin(["all"] if position else leading(reading, quantity))]
    found = found.assign(panel="all parameters: distance from the run" if position else found.group)
    unit = reading.unit(quantity)
    measured = found.drop_duplicates(["step", "group"])
    both = pd.concat(
        [
            lines(found.assign(value=found.error.abs(), kind="error"), unit),
            lines(found.assign(value=found.bar, kind="bar"), unit),
            lines(measured.assign(value=measured.reference_bar, kind="bar", source="measured"), unit),
        ]
    )
    return both.loc[both.value > 0]


def handed(reading: Reading) -> pd.DataFrame:
    """panel, unit, step, value, source, kind of the quantities and observables that were the user's own."""
    rows = reading.table()
    own = rows.loc[(rows.group == "all") & (rows.source == "measured") & ~rows.quantity.isin(OWN)]
    own = own.loc[~own.quantity.astype(str).str.endswith(("_rate", "_displacement"))]
    parts = [
        lines(part.assign(panel=quantity_name(str(q)), kind="value"), reading.unit(str(q)))
        for q, part in own.groupby("quantity", observed=True, sort=False)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def lines(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Thinned, the sources by their names for readers, with NaN for what is not finite."""
    chosen = rows[["panel", "step", "source", "kind"]].assign(value=rows.value.where(np.isfinite(rows.value)))
    thinned = thin(chosen, ["panel", "source", "kind"])
    return thinned.assign(
        panel=thinned.panel.astype(str), source=thinned.source.astype(str).map(source_name), unit=unit
    )


def heat(reading: Reading) -> tuple[pd.DataFrame, str]:
    """log10 of the relative error of the highest order up to 1, layers x steps, and the name of the order."""
    found = prediction_errors(reading, RATE)
    source = "order-1" if (found.source == "order-1").any() else "order-0"
    largest = leading(reading, RATE, HEAT_ROWS)
    found = found.loc[(found.source == source) & found.group.isin(largest)]
    relative = found.error.abs() / found.reference.abs()
    relative = relative.where((relative > 0) & np.isfinite(relative))
    steps = np.sort(found.step.unique())
    width = -(-len(steps) // HEAT_COLUMNS) or 1
    first = steps[np.searchsorted(steps, found.step) // width * width] if len(steps) else found.step
    cells = np.log10(relative).groupby([found.group, first], observed=True).max().unstack()
    return cells.reindex([layer for layer in largest if layer in cells.index]), source_name(source)


def concat(*frames: pd.DataFrame) -> pd.DataFrame:
    """Panels one after another, as many as fit."""
    both = pd.concat(frames, ignore_index=True)
    return both.loc[both.panel.isin(both.panel.unique()[:PANELS])]
