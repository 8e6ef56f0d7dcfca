"""Figures of a run as SVG to be put inside a page."""

from collections.abc import Iterable

import pandas as pd

from eom.analysis.drawing import (
    INK,
    PALETTE,
    Apart,
    Axes,
    Figure,
    Line2D,
    grid,
    heat,
    inline,
    line,
    logarithmic,
    palette,
    styled,
    titled,
)
from eom.analysis.errors import Edge

DASHES = {"value": "-", "error": "-", "bar": (0, (2, 1.5))}
MARKERS = {"value": "o", "error": "o", "bar": "D"}  # where records are so few that a line may be one point
FEW = 30
LIMITS = {1: ("the log map's radius", ":"), 2: ("edge of stability", "--")}  # of lr x sharpness


def panels(name: str, frame: pd.DataFrame, limits: Edge, *, log: bool) -> str:
    """Small multiples over steps, one for each ``panel`` of the frame: a colour by source, a dash by kind."""
    titles = list(dict.fromkeys(frame.panel))
    with styled():
        figure, axes = grid(len(titles), across=3, width=2.45, height=1.5, head=0.6)
        colours = palette(frame.source.unique())
        # What was measured lies broad below the predictions, so that a good one does not hide it.
        widths = {source: 1.2 if log or colour != INK else 3.5 for source, colour in colours.items()}
        for ax, title in zip(axes, titles, strict=True):
            panel = frame.loc[frame.panel == title]
            marked = panel.step.nunique() <= FEW
            # not seaborn's lineplot, whose grouping by three roles takes longer than all else in the figure
            for source, colour in colours.items():
                for kind, rows in panel.loc[panel.source == source].groupby("kind"):
                    ax.plot(
                        rows.step, rows.value, color=colour, linestyle=DASHES[kind], linewidth=widths[source],
                        marker=MARKERS[kind] if marked else "", markersize=4,
                    )  # fmt: skip
            if log:
                logarithmic(ax.yaxis)
            else:
                keep_measured_in_view(ax, panel)
            mark(ax, limits)
            titled(ax, title, "step", panel.unit.iloc[0])
        legend(figure, colours, frame.kind.unique())
        return inline(figure, name)


def course(name: str, loss: pd.DataFrame, limits: Edge) -> str:
    """The loss over the steps, and lr x sharpness with its two limits where it was recorded."""
    with styled():
        figure, axes = grid(1 if limits.path.empty else 2, across=2, width=4.0, height=1.8, head=0.6)
        axes[0].plot(loss.step, loss.value, color=PALETTE["order 1"], marker="o" if len(loss) == 1 else "")
        if loss.value.min() > 0 and loss.value.max() > 10 * loss.value.min():
            logarithmic(axes[0].yaxis)
        mark(axes[0], limits)
        titled(axes[0], "loss", "step", "loss")
        for ax in axes[1:]:
            ax.plot(
                limits.path.step, limits.path.value, color=PALETTE["order 1"], drawstyle="steps-post",
                marker="o" if len(limits.path) == 1 else "",
            )  # fmt: skip
            edges(ax, limits.path.value.max())
            titled(ax, "lr × sharpness", "step", "largest eigenvalue × lr")
        if len(axes) > 1:
            figure.legend(handles=limits_of(), loc="upper left", ncols=len(LIMITS))
        return inline(figure, name)


def heat_map(name: str, cells: pd.DataFrame, meaning: str) -> str:
    """Layers down, steps across; the cells are one image inside the figure."""
    with styled():
        figure = heat(cells, meaning, "step")
        return inline(figure, name)


def edges(ax: Axes, largest: float) -> None:
    """Horizontal lines where lr x sharpness is 1 and 2."""
    for height, (_, dash) in LIMITS.items():
        ax.axhline(height, color=INK, linestyle=dash, linewidth=1)
    ax.set_ylim(0, max(2.4, 1.05 * largest))


def limits_of() -> list[Line2D]:
    """Entries of a legend for these lines."""
    return [line(INK, words, linestyle=dash, linewidth=1) for words, dash in LIMITS.values()]


def keep_measured_in_view(ax: Axes, panel: pd.DataFrame) -> None:
    """Scale to what was measured: a prediction that left it by far would flatten everything else."""
    measured = panel.value.loc[panel.source.isin(["measured", "look-ahead"])].dropna()
    if len(measured):
        low, high = measured.min(), measured.max()
        room = 0.3 * (high - low) or 0.1 * abs(high) or 1.0
        bottom, top = ax.get_ylim()
        bottom, top = max(bottom, low - room), min(top, high + room)
        ax.set_ylim(bottom, top)
        left = panel.source.loc[(panel.value < bottom) | (panel.value > top)].unique()
        if len(left):
            ax.text(0.98, 0.97, f"outside: {', '.join(left)}", transform=ax.transAxes, ha="right", va="top")
    ax.yaxis.set_major_formatter(Apart())


def mark(ax: Axes, limits: Edge) -> None:
    """Vertical lines where lr x sharpness reaches 1 and 2."""
    for step, (_, dash) in zip((limits.radius, limits.stability), LIMITS.values(), strict=True):
        if step is not None:
            ax.axvline(step, color=INK, linestyle=dash, linewidth=0.8)


def legend(figure: Figure, colours: dict[str, str], kinds: Iterable[str]) -> None:
    handles = [line(c, source) for source, c in colours.items()]
    if set(kinds) != {"value"}:
        handles += [
            line(INK, kind, linestyle=DASHES[kind], marker=MARKERS[kind], markersize=4) for kind in ("error", "bar")
        ]
    figure.legend(handles=handles, loc="upper left", ncols=len(handles))
