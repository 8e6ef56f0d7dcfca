"""Figures of several runs: a colour for each, from blue to orange as the learning rate rises."""

import numpy as np
import pandas as pd

from eom.analysis.drawing import Figure, grid, inline, line, logarithmic, palette, ramp, styled, titled
from eom.analysis.plots import edges, limits_of
from eom.analysis.words import source_name

NAMED, ABREAST = 8, 4  # runs in the legend, and in a row of it
ROOM = 1.5  # above and below, as a factor


def courses(name: str, frame: pd.DataFrame, runs: list[str], over: str, unit: str) -> str:
    """One panel for each quantity over this column, a line for each of the ``runs``.

    Columns of the frame: ``panel``, ``unit``, ``run``, the place of the run, ``value``, and ``over``, in ``unit``.
    """
    titles = list(dict.fromkeys(frame.panel))
    colours = ramp(len(runs))
    with styled():
        figure, axes = grid(len(titles), across=2, width=4.0, height=2.0, head=0.8 + 0.2 * (len(runs) > ABREAST))
        for ax, title in zip(axes, titles, strict=True):
            panel = frame.loc[frame.panel == title]
            for run, rows in reversed(list(panel.groupby("run"))):  # the small rates, which end soonest, on top
                marker = "o" if len(rows) == 1 else ""
                ax.plot(rows[over], rows.value, color=colours[int(str(run))], linewidth=1.2, marker=marker)
            if title == "lr × sharpness":
                edges(ax, panel.value.max())
            elif panel.value.min() > 0 and panel.value.max() > 10 * panel.value.min():
                logarithmic(ax.yaxis)
            titled(ax, title, unit, panel.unit.iloc[0])
        named: list[int] = np.linspace(0, len(runs) - 1, min(NAMED, len(runs))).round().astype(int).tolist()
        limits = limits_of() if "lr × sharpness" in titles else []
        legend(figure, [*(line(colours[k], runs[k]) for k in named), *limits])
        return inline(figure, name)


def scaling(name: str, points: pd.DataFrame) -> str:
    """Error over learning rate, one panel for each ``panel``: a marker for each run, the fitted line through them.

    Columns of ``points``: ``panel``, ``source``, ``lr``, ``error``, ``fitted``.
    """
    titles = list(dict.fromkeys(points.panel))
    with styled():
        figure, axes = grid(len(titles), across=3, width=2.45, height=1.9, head=0.6)
        colours = palette([source_name(source) for source in points.source.unique()])
        low, high = points[["error", "fitted"]].min().min(), points[["error", "fitted"]].max().max()
        for ax, title in zip(axes, titles, strict=True):
            for source, rows in points.loc[points.panel == title].groupby("source"):
                colour = colours[source_name(str(source))]
                ax.plot(rows.lr, rows.error, "o", color=colour, markersize=4)
                ax.plot(rows.lr, rows.fitted, color=colour, linewidth=1)
            ax.set_ylim(low / ROOM, high * ROOM)  # of all layers alike, so that they can be told from each other
            logarithmic(ax.xaxis)
            logarithmic(ax.yaxis)
            titled(ax, title, "learning rate", "error, weight² per unit time")
        legend(figure, [line(c, source, marker="o", markersize=4) for source, c in colours.items()])
        return inline(figure, name)


def legend(figure: Figure, handles: list) -> None:
    figure.legend(handles=handles, loc="upper left", ncols=ABREAST)
