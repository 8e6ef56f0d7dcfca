"""Figures of a run as SVG to be put inside a page; the one file that draws."""

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, NullLocator

from eom.analysis.errors import Edge
from eom.analysis.words import label, number, numbers

INK = "#010203"  # stands for the page's own text colour
# Near the hues of Okabe and Ito, which all common kinds of colour vision tell apart; at least 3 : 1 against white
# and against #16191f, the two grounds of the page.
PALETTE = {"measured": INK, "look-ahead": "#b8609a", "gradient flow": "#d55e00", "order 1": "#2b83c6",
           "order 2": "#009e73"}  # fmt: skip
SPARE = ["#7a6fd0", "#a07800"]
DASHES = {"value": "-", "error": "-", "bar": (0, (2, 1.5))}
MARKERS = {"value": "o", "error": "o", "bar": "D"}  # where records are so few that a line may be one point
FEW = 30
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,  # points: 12 px on the page
    "axes.titlesize": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def panels(name: str, frame: pd.DataFrame, limits: Edge, *, log: bool) -> str:
    """Small multiples over steps, one for each ``panel`` of the frame: a colour by source, a dash by kind."""
    titles = list(dict.fromkeys(frame.panel))
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(titles), across=3, width=2.45, height=1.5, head=0.6)
        colours = palette(frame.source.unique())
        # What was measured lies broad below the predictions, so that a good one does not hide it.
        widths = {source: 1.2 if log or colour != INK else 3.5 for source, colour in colours.items()}
        for ax, title in zip(axes, titles, strict=True):
            panel = frame.loc[frame.panel == title]
            marked = panel.step.nunique() <= FEW
            # not seaborn's lineplot, whose grouping by three roles takes longer than all else in the figure
            for source, colour in colours.items():
                for kind, line in panel.loc[panel.source == source].groupby("kind"):
                    ax.plot(
                        line.step, line.value, color=colour, linestyle=DASHES[kind], linewidth=widths[source],
                        marker=MARKERS[kind] if marked else "", markersize=4,
                    )  # fmt: skip
            if log:
                logarithmic(ax)
            else:
                keep_measured_in_view(ax, panel)
            mark(ax, limits)
            titled(ax, title, "step", panel.unit.iloc[0])
        legend(figure, colours, frame.kind.unique())
        return inline(figure, name)


def course(name: str, loss: pd.DataFrame, limits: Edge) -> str:
    """The loss over the steps, and lr x sharpness with its two limits where it was recorded."""
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(1 if limits.path.empty else 2, across=2, width=4.0, height=1.8, head=0.3)
        sns.lineplot(
            loss, x="step", y="value", estimator=None, color=PALETTE["order 1"], ax=axes[0],
            marker="o" if len(loss) == 1 else None,
        )  # fmt: skip
        if loss.value.min() > 0 and loss.value.max() > 10 * loss.value.min():
            logarithmic(axes[0])
        mark(axes[0], limits)
        titled(axes[0], "loss", "step", "loss")
        for ax in axes[1:]:
            sns.lineplot(
                limits.path, x="step", y="value", estimator=None, color=PALETTE["order 1"], ax=ax,
                drawstyle="steps-post", marker="o" if len(limits.path) == 1 else None,
            )  # fmt: skip
            for height, words, dash in ((1, "the log map's radius", ":"), (2, "edge of stability", "--")):
                ax.axhline(height, color=INK, linestyle=dash, linewidth=1)
                ax.annotate(words, (0, height), (4, 3), xycoords=("axes fraction", "data"),
                            textcoords="offset points")  # fmt: skip
            ax.set_ylim(0, max(2.4, 1.05 * limits.path.value.max()))
            titled(ax, "lr × sharpness", "step", "largest eigenvalue × lr")
        return inline(figure, name)


def heat_map(name: str, cells: pd.DataFrame, meaning: str) -> str:
    """Layers down, steps across; the cells are one image inside the figure."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.3 + 0.24 * len(cells)), layout="constrained")
        ax = figure.subplots()
        every = max(1, len(cells.columns) // 8)
        sns.heatmap(
            cells, ax=ax, cmap="viridis", rasterized=True, xticklabels=every, yticklabels=False,
            cbar_kws={"label": meaning},
        )  # fmt: skip
        ax.set_yticks(np.arange(len(cells)) + 0.5)
        ax.set_yticklabels([label(layer, 32) for layer in cells.index], parse_math=False)
        ax.tick_params(axis="x", rotation=0)
        ax.set(xlabel="step", ylabel="")
        return inline(figure, name)


def grid(count: int, *, across: int, width: float, height: float, head: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes of this size in inches, and ``head`` above them."""
    left, right, bottom, gap, rise = 0.85, 0.2, 0.5, 0.95, 0.75
    columns, rows = min(across, count), -(-count // across)
    wide = left + columns * width + (columns - 1) * gap + right
    high = head + rows * height + (rows - 1) * rise + bottom
    figure = Figure(figsize=(wide, high))
    axes = [
        figure.add_axes(
            (
                (left + (width + gap) * (k % columns)) / wide,
                1 - (head + height + (height + rise) * (k // columns)) / high,
                width / wide,
                height / high,
            )
        )
        for k in range(count)
    ]
    return figure, axes


def palette(sources: Iterable[str]) -> dict[str, str]:
    """The colour of each source, the known ones first."""
    others = [source for source in sources if source not in PALETTE]
    known = {source: colour for source, colour in PALETTE.items() if source in set(sources)}
    return known | {source: SPARE[k % len(SPARE)] for k, source in enumerate(others)}


def titled(ax: Axes, title: str, across: str, up: str) -> None:
    # A name is text, not mathematics, whatever dollar signs it holds. With its height given, no ticks are measured.
    ax.set_title(label(title, 42), parse_math=False, y=1.0)
    ax.set_xlabel(across)
    ax.set_ylabel(label(up) if up else "", parse_math=False)


def logarithmic(ax: Axes) -> None:
    # matplotlib's own labels set exponents in smaller type than a phone can show
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    ax.yaxis.set_minor_locator(NullLocator())


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


class Apart(Formatter):
    """Tick labels with as many digits as tell them apart."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return number(x)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        return numbers([float(value) for value in values])


def mark(ax: Axes, limits: Edge) -> None:
    """Vertical lines where lr x sharpness reaches 1 and 2."""
    for step, dash in ((limits.radius, ":"), (limits.stability, "--")):
        if step is not None:
            ax.axvline(step, color=INK, linestyle=dash, linewidth=0.8)


def legend(figure: Figure, colours: dict[str, str], kinds: Iterable[str]) -> None:
    handles = [Line2D([], [], color=c, label=source) for source, c in colours.items()]
    if set(kinds) != {"value"}:
        handles += [
            Line2D([], [], color=INK, linestyle=DASHES[kind], marker=MARKERS[kind], markersize=4, label=kind)
            for kind in ("error", "bar")
        ]
    figure.legend(handles=handles, loc="upper left", ncols=len(handles))


def inline(figure: Figure, name: str) -> str:
    """The figure as one <svg> element; its ids begin with ``name``, and its ink is the page's text colour."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser has glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter(f"{{{SVG}}}defs"):
        for style in parent.findall(f"{{{SVG}}}style"):
            parent.remove(style)  # it would reach out over the whole page
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == f"{{{XLINK}}}href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            elif key == "d":
                value = re.sub(r"(\.\d\d)\d+", r"\1", value)
            element.attrib[key] = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    root.set("role", "img")
    return ElementTree.tostring(root, encoding="unicode")
