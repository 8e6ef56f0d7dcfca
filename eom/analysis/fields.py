"""Pictures of fields on a grid: over space and time, and in two dimensions. One colour scale. No torch."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from eom.analysis.drawing import Figure, coloured, inline, key, sheet, styled, titled
from eom.analysis.words import number


def space_time(
    name: str,
    true: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    times: np.ndarray,
    x: np.ndarray,
    labels: Sequence[str] = ("place x", "time", "u"),
) -> str:
    """Fields [f, s, m] over places ``x`` [m] and ``times`` [s]: true and predicted above, what differs below, by field.

    All panels of a field have one scale, that of the true one, white at 0: a difference is as dark as a value of its
    size.

    Args:
        name: that ids in the <svg> begin with. labels: of places, times and the values of each field, with their units.
    """
    across, up, *values = labels
    each = 2 if predicted else 1  # rows of a field
    with styled():
        figure, axes = sheet(each * len(true), 1 + len(predicted), width=2.6, height=2.5)
        for k, (field, value) in enumerate(zip(true, values, strict=True)):
            of_field = {text: fields[k] for text, fields in predicted.items()}
            compared(figure, axes[each * k : each * (k + 1)], field, of_field, times, x, (across, up, value))
        return inline(figure, name)


def compared(
    figure: Figure, axes: np.ndarray, true: np.ndarray, predicted: Mapping[str, np.ndarray], times: np.ndarray,
    x: np.ndarray, labels: tuple[str, str, str],
) -> None:  # fmt: skip
    """One field [s, m] of ``space_time`` on its ``axes`` [1 or 2, 1 + predicted]."""
    largest, beyond = scale(true, [f for field in predicted.values() for f in (field, field - true)])
    for ax in axes[1:, 0]:
        ax.remove()
    shown = [(axes[0, 0], "true", true)]
    for k, (text, field) in enumerate(predicted.items(), 1):
        shown.append((axes[0, k], text, field))
        shown.append((axes[1, k], f"{text} − true", field - true))
    for ax, text, field in shown:
        image = coloured(ax, x, times, field, largest)
        titled(ax, text, labels[0], labels[1])
    for ax in axes[0, 1:]:
        ax.set(xlabel="", ylabel="")
    for ax in axes[1:, 2:].flat:
        ax.set(ylabel="")
    for ax in (axes[0, 0], *axes[-1, 1:]):
        ax.tick_params(labelbottom=True)
    for ax in axes[1:, 1:2].flat:
        ax.tick_params(labelleft=True)
    key(figure, image, [*axes[0], *axes[1:, 1:].flat], labels[2], beyond=beyond)


def snapshots(
    name: str, rows: Mapping[str, np.ndarray], times: np.ndarray,
    labels: tuple[str, str, str] = ("place x", "place y", "u"), size: tuple[float, float] = (1.0, 1.0),
) -> str:  # fmt: skip
    """Fields [k, m, m'] of some name at k ``times``, a row for each name, all with the scale of the first, white at 0.

    Args:
        labels: of x, y and values, with their units. size: the lengths of the domain.
    """
    largest, beyond = scale(next(iter(rows.values())), rows.values())
    with styled():
        figure, axes = sheet(len(rows), len(times), width=1.5, height=1.6)
        for r, (text, fields) in enumerate(rows.items()):
            for k, field in enumerate(fields):
                ax = axes[r, k]
                y, x = (length * np.arange(m) / m for length, m in zip(size, field.shape, strict=True))
                image = coloured(ax, x, y, field, largest)
                ax.set_aspect("equal")
                titled(ax, f"t = {number(float(times[k]))}", labels[0], f"{text}: {labels[1]}" if k == 0 else "")
        for ax in axes[1:].flat:
            ax.set_title("")
        for ax in axes[:-1].flat:
            ax.set_xlabel("")
        key(figure, image, list(axes.flat), labels[2], beyond=beyond)
        return inline(figure, name)


def scale(true: np.ndarray, others: Iterable[np.ndarray]) -> tuple[float, bool]:
    """The largest size of the true values, and whether others go beyond it."""
    largest = float(np.abs(true).max()) or 1.0
    return largest, any(np.abs(field).max() > 1.001 * largest for field in others)
