"""Animated GIFs of motion: pendulums that swing, and fields in two dimensions. One picture for each state. No torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eom.analysis.drawing import coloured, film, grid, key, sheet, styled, titled
from eom.analysis.fields import scale
from eom.analysis.portraits import colours_of

PALE = {"color": "0.75", "linewidth": 4, "markersize": 9}


def film_pendulums(
    path: Path, angles: Mapping[str, np.ndarray], times: np.ndarray, rate: float = 10.0, clock: str = "time"
) -> Path:
    """Rods at angles [s] / rad from hanging down, a panel for each name, ``rate`` pictures in a second.

    The first is the true one: it is drawn pale in all the others.
    """
    true, reference = next(iter(angles.items()))
    colours = colours_of(angles)
    with styled():
        figure, axes = grid(len(angles), across=len(angles), width=1.6, height=1.6, head=0.6)
        figure.set_dpi(80)
        clock_face = figure.text(0.01, 0.92, "")
        moving: list = [clock_face]
        rods = []
        for ax, (text, angle) in zip(axes, angles.items(), strict=True):
            for course, look in ((reference, PALE), (angle, {"color": colours[text], "linewidth": 1.5})):
                if text != true or look is not PALE:
                    (rod,) = ax.plot([], [], "-o", **look)
                    rods.append((rod, course))
                    moving.append(rod)
            ax.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            titled(ax, text, "x / rod length", "y / rod length" if ax is axes[0] else "")

        def draw(k: int) -> None:
            for rod, course in rods:
                rod.set_data([0, np.sin(course[k])], [0, -np.cos(course[k])])
            clock_face.set_text(f"{clock} {float(times[k]):.4g}; pale: {true}")

        film(figure, moving, draw, len(times), path, rate)
    return path


def film_fields(
    path: Path, fields: Mapping[str, np.ndarray], times: np.ndarray, rate: float = 10.0, clock: str = "time",
    labels: tuple[str, str, str] = ("place x", "place y", "u"), size: tuple[float, float] = (1.0, 1.0),
) -> Path:  # fmt: skip
    """Fields [s, m, m'], a panel for each name, all with the scale of the first; ``rate`` pictures in a second."""
    largest, beyond = scale(next(iter(fields.values())), fields.values())
    with styled():
        figure, axes = sheet(1, len(fields), width=2.4, height=2.8)
        figure.set_dpi(80)
        images = []
        for ax, (text, field) in zip(axes[0], fields.items(), strict=True):
            y, x = (length * np.arange(m) / m for length, m in zip(size, field.shape[1:], strict=True))
            images.append((coloured(ax, x, y, field[0], largest), field))
            ax.set_aspect("equal")
            titled(ax, text, labels[0], labels[1] if ax is axes[0, 0] else "")
        key(figure, images[0][0], list(axes[0]), labels[2], beyond=beyond)
        clock_face = figure.text(0.01, 0.93, "")

        def draw(k: int) -> None:
            for image, field in images:
                image.set_array(field[k])
            clock_face.set_text(f"{clock} {float(times[k]):.4g}")

        film(figure, [clock_face, *(image for image, _ in images)], draw, len(times), path, rate)
    return path
