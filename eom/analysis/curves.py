"""Figures of several runs: a colour for each, from blue to orange as the learning rate rises."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eom.analysis.drawing import Figure, grid, hues, inline, line, logarithmic, palette, ramp, styled, titled
from eom.analysis.plots import edges, limits_of
from eom.analysis.words import source_name

NAMED, ABREAST = 8, 4  # runs in the legend, and in a row of it
ROOM = 1.5  # above and below, as a factor
STROKES = ("-", "--", ":", "-.")


class Look(NamedTuple):
    """Of a run: its name, how many of the same rate come before it, and whether the scale is not to hold it."""

    name: str
    stroke: int
    exploded: bool


def courses(name: str, frame: pd.DataFrame, runs: list[Look], over: str, unit: str) -> str:
    """One panel for each quantity over this column, a line for each of the ``runs``.

    Columns of the frame: ``panel``, ``unit``, ``run``, the place of the run, ``value``, and ``over``, in ``unit``.
    """
    titles = list(dict.fromkeys(frame.panel))
    colours = ramp(len(runs))
    strokes = [STROKES[look.stroke % len(STROKES)] for look in runs]
    calm = [k for k, look in enumerate(runs) if not look.exploded]
    with styled():
        figure, axes = grid(len(titles), across=2, width=4.0, height=2.0, head=0.8 + 0.2 * (len(runs) > ABREAST))
        for ax, title in zip(axes, titles, strict=True):
            panel = frame.loc[frame.panel == title]
            for run, rows in reversed(list(panel.groupby("run"))):  # the small rates, which end soonest, on top
                marker, k = "o" if len(rows) == 1 else "", int(str(run))
                ax.plot(rows[over], rows.value, strokes[k], color=colours[k], linewidth=1.2, marker=marker)
            scale = panel.loc[panel.run.isin(calm)] if calm else panel
            low, high = scale.value.min(), scale.value.max()
            if title == "lr × sharpness":
                edges(ax, panel.value.max())
            elif low > 0 and high > 10 * low:
                logarithmic(ax.yaxis)
            if len(calm) < len(runs) and len(scale) and title != "lr × sharpness":
                ax.set_ylim(*((low / ROOM, high * ROOM) if low > 0 else (low, high)))
            titled(ax, title, unit, panel.unit.iloc[0])
        named: list[int] = np.linspace(0, len(runs) - 1, min(NAMED, len(runs))).round().astype(int).tolist()
        limits = limits_of() if "lr × sharpness" in titles else []
        legend(figure, [*(line(colours[k], runs[k].name, linestyle=strokes[k]) for k in named), *limits])
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


def ladder_rows(panels: Mapping[str, tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """A row for each error of {panel: (what the steps are, {line: Ladder})}."""
    rows = [
        {"panel": panel, "line": line, "across": across, "step": h, "error": error, "bar": bar}
        for panel, (across, found) in panels.items()
        for line, one in found.items()
        for h, error, bar in zip(one.h, one.error, one.bar, strict=True)
    ]
    return pd.DataFrame(rows)


def ladders(name: str, frame: pd.DataFrame) -> str:
    """Size of errors over steps on logarithmic scales: a panel for each ``panel``, a line for each ``line``.

    Columns of the frame: those of ``ladder_rows``.
    """
    titles = list(dict.fromkeys(frame.panel))
    with styled():
        figure, axes = grid(len(titles), across=2, width=4.0, height=2.8, head=0.4)
        for ax, title in zip(axes, titles, strict=True):
            panel = frame.loc[frame.panel == title]
            for colour, (text, rows) in zip(hues(panel.line.nunique()), panel.groupby("line", sort=False), strict=True):
                ax.plot(rows.step, rows.error.abs(), color=colour, linewidth=1, label=str(text))
                for positive, part in rows.groupby(rows.error > 0):
                    fill = "full" if positive else "none"
                    ax.plot(part.step, part.error.abs(), "o", color=colour, markersize=4, fillstyle=fill)
            logarithmic(ax.xaxis)
            logarithmic(ax.yaxis)
            ax.legend(loc="best", fontsize=7)
            titled(ax, title, panel.across.iloc[0], "error (hollow: negative)")
        return inline(figure, name)


def bands(name: str, frame: pd.DataFrame, of: str) -> str:
    """One panel for each ``panel`` over time: a mean with its interval for every ``refinement``, called ``of``.

    Columns of the frame: ``panel``, ``unit``, ``refinement``, ``time``, ``mean``, ``bar``.
    """
    titles, levels = list(dict.fromkeys(frame.panel)), sorted(frame.refinement.unique())
    colours = dict(zip(levels, ramp(len(levels)), strict=True))
    with styled():
        figure, axes = grid(len(titles), across=2, width=4.0, height=2.2, head=0.6)
        for ax, title in zip(axes, titles, strict=True):
            for level, rows in frame.loc[frame.panel == title].groupby("refinement"):
                colour = colours[level]
                ax.plot(rows.time, rows["mean"], color=colour, linewidth=1.2)
                ax.fill_between(rows.time, rows["mean"] - rows.bar, rows["mean"] + rows.bar, color=colour, alpha=0.25)
            unit = frame.loc[frame.panel == title, "unit"].iloc[0]
            titled(ax, title, "time (sum of learning rates)", f"{unit}, mean over seeds" if unit else "mean over seeds")
        legend(figure, [line(colours[level], f"{of} = {level}") for level in levels])
        return inline(figure, name)


def legend(figure: Figure, handles: list) -> None:
    figure.legend(handles=handles, loc="upper left", ncols=ABREAST)
