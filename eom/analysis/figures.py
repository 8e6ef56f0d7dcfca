"""The figures of a report: what each shows, and what to read from it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from eom.analysis import plots, series
from eom.analysis.errors import DISPLACEMENT, RATE, edge
from eom.analysis.reading import Reading
from eom.analysis.words import count, quantity_name


class Figure(NamedTuple):
    """One figure: a title, an <svg> element, and how to read it."""

    title: str
    svg: str
    caption: str


def figures(reading: Reading, prefix: str = "") -> Iterator[Figure]:
    """Those figures for which the run has numbers; their ids begin with ``prefix``."""
    limits = edge(reading)
    lines = ""
    if limits.radius is not None:
        lines = " Vertical lines: lr × sharpness first reaches 1 (dotted) and 2 (dashed)."
    layers = len(reading.layers)

    rates = series.values(reading, RATE)
    if not rates.empty:
        yield Figure(
            "Rates, measured and predicted",
            plots.panels(prefix + "rates", rates, limits, log=False),
            f"{quantity_name(RATE)} by layer. A prediction is good where its line lies on the measured one. Each "
            f"panel is scaled to what was measured; a prediction may leave it.{lines}{more(layers, rates)}",
        )
    errors = series.errors(reading, RATE)
    if not errors.empty:
        yield Figure(
            "Errors of the predicted rates, by order",
            plots.panels(prefix + "errors", errors, limits, log=True),
            "Solid: how far each order is from the measured rate; lower is better, and below the measurement's "
            "bar nothing is known. Dashed: what each says of its own error; a bar is honest where it runs along "
            f"its solid line.{lines}{more(layers, errors)}",
        )
    displaced = series.concat(series.errors(reading, "position_error"), series.errors(reading, DISPLACEMENT))
    if not displaced.empty:
        horizon = reading.settings.get("horizon")
        after = f"after {count(horizon, 'step')}" if horizon else "after the horizon"
        yield Figure(
            "Displacements, by order of the flow",
            plots.panels(prefix + "displacements", displaced, limits, log=True),
            f"How far from the run the flow of each order arrives {after}, by the step where both start: first "
            f"the distance of all parameters, then the error in the change of {quantity_name('norm_squared')}. "
            f"Each order should lie below the one before.{lines}",
        )
    handed = series.handed(reading)
    if not handed.empty:
        yield Figure(
            "Quantities of your own",
            plots.panels(prefix + "handed", handed, limits, log=False),
            f"What was handed to the tracker, at the records where it was measured.{lines}",
        )
    cells, name = series.heat(reading)
    if cells.notna().any(axis=None):
        yield Figure(
            "Where the prediction fails",
            plots.heat_map(prefix + "heat", cells, "log10(error / rate)"),
            f"Error of {name} over the measured rate, layers by steps: -3 is one part in a thousand, 0 is an "
            "error as large as the rate. Each cell shows the worst record in it."
            + (f" The {len(cells)} layers with the largest rates, of {layers}." if len(cells) < layers else ""),
        )
    loss = reading.measured("loss")
    loss = series.thin(loss.loc[np.isfinite(loss.value)].assign(line="loss"), ["line"])
    if not loss.empty:
        yield Figure(
            "Loss and sharpness" if len(limits.path) else "Loss",
            plots.course(prefix + "loss", loss, limits),
            "The training loss without weight decay." + (" lr × sharpness: where it passes 1 the log map need not "
            "converge, and at 2 plain gradient descent is at the edge of stability." if len(limits.path) else ""),
        )  # fmt: skip


def more(layers: int, frame) -> str:
    shown = frame.panel.nunique()
    return f" The {shown} layers with the largest rates, of {layers}; the table has all." if shown < layers else ""
