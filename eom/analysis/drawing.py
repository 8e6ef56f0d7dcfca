"""How figures are drawn: style, axes, legends, SVG to be put inside a page; the one file that imports what draws."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import AutoLocator, Formatter, FuncFormatter, LogLocator, NullLocator
from PIL import Image

from eom.analysis.words import label, number, numbers

INK = "#010203"  # stands for the page's own text colour
# Near the hues of Okabe and Ito, which all common kinds of colour vision tell apart; at least 3 : 1 against white
# and against #16191f, the two grounds of the page.
PALETTE = {"measured": INK, "look-ahead": "#b8609a", "gradient flow": "#d55e00", "order 1": "#2b83c6",
           "order 2": "#009e73"}  # fmt: skip
SPARE = ["#7a6fd0", "#a07800"]
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
DIGIT = 6  # points that one takes up in a label of this size
COLOURS = 64  # of a picture in a GIF
RAMP = LinearSegmentedColormap.from_list("ramp", ["#2b83c6", "#8a78c0", "#b8609a", "#d55e00"])  # 3 : 1 as well


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the house's style."""
    with matplotlib.rc_context(STYLE):
        yield


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
    for ax in axes:
        ax.xaxis.set_major_locator(Roomy())
    return figure, axes


def palette(sources: Iterable[str]) -> dict[str, str]:
    """The colour of each source, the known ones first."""
    others = [source for source in sources if source not in PALETTE]
    known = {source: colour for source, colour in PALETTE.items() if source in set(sources)}
    return known | {source: SPARE[k % len(SPARE)] for k, source in enumerate(others)}


def ramp(count: int) -> list[str]:
    """Colours from blue to orange, in order."""
    return [to_hex(RAMP(k / max(1, count - 1))) for k in range(count)]


def hues(count: int) -> list[str]:
    """Colours of things in no order, told apart by all common kinds of colour vision."""
    return list(sns.color_palette("colorblind", count).as_hex())


def standalone(svg: str) -> str:
    """An <svg> element of a page as a file of its own, with ink of its own."""
    return svg.replace("currentColor", "#1b1f24")


def titled(ax: Axes, title: str, across: str, up: str) -> None:
    # A name is text, not mathematics, whatever dollar signs it holds. With its height given, no ticks are measured.
    ax.set_title(label(title, 42), parse_math=False, y=1.0)
    ax.set_xlabel(across)
    ax.set_ylabel(label(up) if up else "", parse_math=False)


def logarithmic(axis: XAxis | YAxis) -> None:
    """Powers of ten at equal distances, and numbers between them where there are few; once all is drawn."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = getattr(axis.axes, f"get_{axis.axis_name}lim")()
    between = (1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)
    # matplotlib's own labels set exponents in smaller type than a phone can show
    axis.set_major_locator(LogLocator(subs=between, numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_locator(NullLocator())


class Roomy(AutoLocator):
    """As many ticks along x as have room for their labels; matplotlib's own reckons with labels of three characters."""

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        axis: Any = self.axis
        per_unit = 72 * axis.axes.bbox.width / axis.axes.figure.dpi / abs(vmax - vmin)
        for count in range(9, 0, -1):
            self.set_params(nbins=count)
            ticks = np.asarray(super().tick_values(vmin, vmax))
            longest = max(map(len, axis.get_major_formatter().format_ticks(ticks)))
            if (longest + 1) * DIGIT <= (ticks[1] - ticks[0]) * per_unit:
                return ticks
        return ticks


class Apart(Formatter):
    """Tick labels with as many digits as tell them apart."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return number(x)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        return numbers([float(value) for value in values])


def line(color: str, text: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=color, label=text, **style)


def heat(cells: pd.DataFrame, meaning: str, across: str) -> Figure:
    """A heat map with a colour bar, as one image inside the figure."""
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
    ax.set(xlabel=across, ylabel="")
    return figure


def sheet(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with axes [rows, columns] of about this size in inches, and room for a colour bar at their right."""
    figure = Figure(figsize=(1.4 + columns * width, 0.4 + rows * height), dpi=144)
    figure.set_layout_engine("constrained", h_pad=0.1)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    axes[0, 0].xaxis.set_major_locator(Roomy())
    return figure, axes


def coloured(ax: Axes, across: np.ndarray, up: np.ndarray, values: np.ndarray, largest: float) -> Any:
    """``values`` [up, across] as one image inside the figure: blue to -``largest``, white at 0, red to ``largest``."""
    return ax.pcolormesh(
        across, up, values, cmap="RdBu_r", vmin=-largest, vmax=largest, shading="nearest", rasterized=True
    )


def key(figure: Figure, image: Any, axes: Any, text: str, *, beyond: bool) -> None:
    """The colour bar of all ``axes``, with pointed ends where there are values ``beyond`` it."""
    bar = figure.colorbar(image, ax=axes, format=Apart(), pad=0.02, extend="both" if beyond else "neither")
    bar.set_label(text, parse_math=False)


def film(
    figure: Figure, moving: Sequence[Artist], draw: Callable[[int], object], count: int, path: Path, rate: float
) -> None:
    """An animated GIF of ``count`` pictures, ``rate`` in a second; ``draw`` brings what is ``moving`` to the k-th.

    The rest is drawn once: matplotlib's own writer draws all of it anew and takes ten times as long.
    """
    figure.set_facecolor("white")  # a GIF has no ground of its own
    canvas = FigureCanvasAgg(figure)
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)  # type: ignore[attr-defined] - Agg's
    pictures = []
    for k in range(count):
        draw(k)
        canvas.restore_region(ground)
        for artist in moving:
            figure.draw_artist(artist)
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()).quantize(COLOURS))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / rate), loop=0)


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
