"""Pictures of motion in state space: paths over level lines of energies, and energies over time. No torch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eom.analysis.drawing import INK, Axes, Line2D, grid, hues, inline, line, logarithmic, styled, titled

Energy = Callable[[np.ndarray], np.ndarray]  # states [m, 2] -> [m]

TRUE: dict[str, Any] = {"color": INK, "linewidth": 3.0, "alpha": 0.3}  # broad below predictions, which do not hide it
PREDICTED: dict[str, Any] = {"color": "#d55e00", "linewidth": 0.9}
LEARNED: dict[str, Any] = {"color": "#2b83c6", "linewidth": 0.8}
KNOWN: dict[str, Any] = {"color": "#2b83c6", "linewidth": 2.4, "alpha": 0.3}  # broad below the learned ones, too
LEVELS, FINE, ROOM = 7, 80, 1.15  # lines, points of the grid they are drawn on, view over what was visited
WIDE = 30.0  # largest over smallest value, from where an axis is logarithmic


class Portrait(NamedTuple):
    """One panel: the paths [b, s, 2] a model predicts, and the energy it has learned, if it has one."""

    title: str
    paths: np.ndarray
    energy: Energy | None = None


def phase_portrait(
    name: str,
    true: np.ndarray,
    panels: Sequence[Portrait],
    entries: tuple[str, str],
    energy: Energy | None = None,
    observed: np.ndarray | None = None,
) -> str:
    """Predicted paths over the ``true`` ones [b, s, 2], one panel for each model, all with the same equal axes.

    Without panels the true ones are drawn alone. Level lines are of the true ``energy`` and of the learned one at the
    same levels. A learned energy has no zero of its own: it is shifted to the true one's mean over the true states.
    ``observed`` [..., 2] has a panel before them.

    Args:
        name: that ids in the <svg> begin with. entries: names of the two axes, with their units.
    """
    centre, half = view([true, *([] if observed is None else [observed])])
    x, y = (np.linspace(c - half, c + half, FINE) for c in centre)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    visited = true.reshape(-1, 2)
    known = None if energy is None else energy(points).reshape(FINE, FINE)
    levels = np.array([]) if known is None else np.linspace(known.min(), energy(visited).max() * 1.1, LEVELS + 1)[1:]  # type: ignore[misc] - numpy types linspace as a float
    panels = panels or [Portrait("true motion", true[:0])]
    count = len(panels) + (observed is not None)
    handles = explained(panels, known is not None)
    columns = min(2, count)  # one panel is too narrow for two
    with styled():
        figure, axes = grid(count, across=3, width=2.45, height=2.45, head=0.4 + 0.2 * -(-len(handles) // columns))
        if known is not None:
            for ax in axes:
                contours(ax, x, y, known, levels, KNOWN)
        if observed is not None:
            dots = observed.reshape(-1, 2)
            axes[0].plot(dots[:, 0], dots[:, 1], ".", color="#009e73", markersize=2, rasterized=True)
            titled(axes[0], "observed points", *entries)
        for ax, panel in zip(axes[count - len(panels) :], panels, strict=True):
            for path in true:
                ax.plot(path[:, 0], path[:, 1], **TRUE)
            for path in panel.paths:
                ax.plot(path[:, 0], path[:, 1], **PREDICTED)
            if panel.energy is not None and energy is not None:
                shift = float(np.mean(panel.energy(visited) - energy(visited)))
                contours(ax, x, y, panel.energy(points).reshape(FINE, FINE) - shift, levels, LEARNED)
            titled(ax, panel.title, *entries)
        for ax in axes:
            ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], aspect="equal")
        figure.legend(handles=handles, loc="upper left", ncols=columns)
        return inline(figure, name)


def explained(panels: Sequence[Portrait], known: bool) -> list[Line2D]:
    """Entries of the legend, of what there is in any panel; the true energy may be ``known``."""
    handles = [line(text="true motion", **TRUE)]
    if any(len(panel.paths) for panel in panels):
        handles.append(line(text="predicted motion", **PREDICTED))
    if known:
        handles.append(line(text="level lines of the true energy", **KNOWN))
    if known and any(panel.energy is not None for panel in panels):
        handles.append(line(text="of the learned energy", **LEARNED))
    return handles


def view(paths: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Centre [2] and half width of the square that holds them."""
    all_of_them = np.concatenate([path.reshape(-1, 2) for path in paths])
    low, high = all_of_them.min(0), all_of_them.max(0)
    return (low + high) / 2, float((high - low).max()) / 2 * ROOM or 1.0


def contours(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, levels: np.ndarray, look: dict) -> None:
    """Level lines that lie within the view."""
    levels = np.unique(levels[(levels > values.min()) & (levels < values.max())])
    if len(levels):
        ax.contour(
            x, y, values, levels=levels, colors=look["color"], linewidths=look["linewidth"], linestyles="-",
            alpha=look.get("alpha"),
        )  # fmt: skip


def energy_courses(name: str, frame: pd.DataFrame, clock: str = "time") -> str:
    """One panel over time for each ``panel``, a colour for each ``line`` in all of them, a band where there is one.

    Columns of the frame: ``panel``, ``unit``, ``line``, ``time``, ``value``, and ``low`` and ``high`` of the band. An
    axis is logarithmic where all values are sizes (0 or more) that differ much, and linear where they have signs.
    A logarithmic one is without the start, where the state is given and only rounding is there, and without sizes of 0.
    """
    titles = list(dict.fromkeys(frame.panel))
    lines = list(dict.fromkeys(frame.line))
    colours = colours_of(lines)
    strokes = {text: "--" if text == "true" else "-" for text in lines}
    with styled():
        rows = -(-len(lines) // 4)
        figure, axes = grid(len(titles), across=2, width=4.0, height=2.2, head=0.4 + 0.2 * rows)
        for ax, title in zip(axes, titles, strict=True):
            panel = frame.loc[frame.panel == title]
            later = panel.loc[panel.time > panel.time.min()]
            log = spread(later.value)
            for text, course in (later if log else panel).groupby("line", sort=False):
                colour, stroke = colours[str(text)], strokes[str(text)]
                shown = course.loc[course.value > 0] if log else course
                alone = "." if len(shown) == 1 else ""  # of which there is no line
                ax.plot(shown.time, shown.value, stroke, marker=alone, color=colour, linewidth=1.2)
                if {"low", "high"} <= set(course):
                    low = shown.low.where(shown.low > 0, later.value[later.value > 0].min()) if log else shown.low
                    ax.fill_between(shown.time, low, shown.high, color=colour, alpha=0.2, linewidth=0)
            if log:
                logarithmic(ax.yaxis)
            titled(ax, title, clock, panel.unit.iloc[0])
        handles = [line(colours[text], text, linestyle=strokes[text]) for text in lines]
        figure.legend(handles=handles, loc="upper left", ncols=4)
        return inline(figure, name)


def colours_of(lines: Iterable[str]) -> dict[str, str]:
    """Ink for what is true, a colour for each of the others."""
    others = [text for text in lines if text != "true"]
    return {"true": INK, **dict(zip(others, hues(len(others)), strict=True))}


def spread(values: pd.Series) -> bool:
    """Whether they are sizes that differ by more than a factor ``WIDE``."""
    sizes = values[values > 0]
    return bool((values >= 0).all() and len(sizes) and sizes.max() > WIDE * sizes.min())
