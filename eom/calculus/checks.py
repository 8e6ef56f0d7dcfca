"""Probes of derivatives: against differences over a ladder of steps, against symmetry, against the function's slope."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

VectorFunction = Callable[[Tensor], Tensor]  # [n] -> [n]


@dataclass(frozen=True)
class Rung:
    """A step e along the direction, and how far the difference over it is from the derivative."""

    step: float
    error: float


def direction(y: Tensor, sizes: Sequence[int], seed: int) -> Tensor:
    """A random unit vector [n] that moves every block of ``y`` by about the same share of it.

    A block of few or small entries then weighs as much as any other; one of zeros is moved by a tenth of the mean.
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    least = float(y.norm()) / y.numel() ** 0.5 / 10 or 1.0
    for part, block in zip(v.split(list(sizes)), y.split(list(sizes)), strict=True):
        part *= (block.norm() / max(block.numel(), 1) ** 0.5).clamp(min=least)
    return v / v.norm()


def scale(y: Tensor) -> float:
    """What steps are measured in: |y|, or 1 where that is smaller."""
    return max(float(y.norm()), 1.0)


def central(f: VectorFunction, y: Tensor, v: Tensor, e: float) -> Tensor:
    """(f(y + e v) - f(y - e v)) / 2e."""
    return (f(y + e * v) - f(y - e * v)) / (2 * e)


def block_errors(x: Tensor, reference: Tensor, sizes: Sequence[int], floor: float) -> list[float]:
    """|x - reference| of every block, relative to the block's own size, plus ``floor``, plus 1e-4 of the whole.

    Infinite where it is no number.
    """
    least = floor + 1e-4 * float(reference.norm())  # a bias before a normalisation has nothing but rounding

    def relative(a: Tensor, b: Tensor) -> float:
        error = float((a - b).norm())
        if error == 0:
            return 0.0
        share = error / (float(b.norm()) + least or 1e-300)
        return share if share == share else torch.inf

    return [relative(a, b) for a, b in zip(x.split(list(sizes)), reference.split(list(sizes)), strict=True)]


def noise(size: float, e: float, eps: float) -> float:
    """Rounding of a central difference over a step ``e`` of values of this size, of relative rounding ``eps``."""
    return 100 * eps * size / e


def ladder(
    f: VectorFunction,
    y: Tensor,
    v: Tensor,
    derivative: Tensor,
    *,
    sizes: Sequence[int],
    limit: float,
    size: float,
    eps: float,
) -> Iterator[Rung]:
    """Largest error over the blocks of ``derivative`` [n] = f'(y) v, over steps from short to shorter.

    A wrong formula is wrong at every step, rounding falls on the short ones, curvature and kinks on the long ones.

    Args:
        limit: of the relative error. size: |f(y)|, whose rounding, ``eps`` of it, the differences carry.
    """
    for power in (1 / 3, 1 / 2):
        e = scale(y) * eps**power
        floor = noise(size, e, eps) / limit  # a block smaller than this cannot be told from rounding
        yield Rung(e, max(block_errors(derivative, central(f, y, v, e), sizes, floor)))


def climbed(rungs: Iterator[Rung], limit: float) -> Iterator[Rung]:
    """Rungs up to the first within the limit."""
    for rung in rungs:
        yield rung
        if rung.error <= limit:
            return


def best(rungs: Iterator[Rung], limit: float) -> Rung:
    """The first rung within the limit, or the one with the least error."""
    return min(climbed(rungs, limit), key=lambda rung: rung.error)


def fell(rungs: Sequence[Rung]) -> bool:
    """Whether the error fell a hundredfold to a small one with the step, as over kinks; a wrong formula stays."""
    return len(rungs) > 1 and rungs[-1].error < min(1e-3, rungs[0].error / 100)


def asymmetry(u: Tensor, v: Tensor, hu: Tensor, hv: Tensor) -> float:
    """|u . H v - v . H u| relative to (|H u| |H v|)^(1/2)."""
    size = float((hu.norm() * hv.norm()).sqrt())
    error = abs(float(u @ hv - v @ hu))
    return error / size if size else error


def slope_error(
    value: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, g: Tensor, *, limit: float, size: float, eps: float
) -> float:
    """Relative error of g . v as the slope of a function along v, by differences over two steps.

    ``size`` is that of the function, ``eps`` its relative rounding.
    """
    predicted = float(g @ v)

    def error(power: float) -> float:
        e = scale(y) * eps**power
        wrong = abs(float(central(value, y, v, e)) - predicted)
        return wrong / (abs(predicted) + noise(size, e, eps) / limit + 1e-300)

    first = error(1 / 3)
    return first if first <= limit else min(first, error(1 / 2), key=lambda x: x if x == x else torch.inf)


def rounds_to_single(value: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, g: Tensor) -> bool:
    """Whether a function of double precision is rounded to single inside: its slope is wrong over short steps only.

    Two longer ones have to be right, or curvature might hide a wrong gradient by accident.
    """
    if y.dtype != torch.float64:
        return False
    short, long = (scale(y) * torch.finfo(dtype).eps ** (1 / 3) for dtype in (torch.float64, torch.float32))
    errors = [abs(float(central(value, y, v, e)) - float(g @ v)) for e in (short, long, long / 2)]
    return max(errors[1:]) < errors[0] / 10


def jumps(f: VectorFunction, y: Tensor, v: Tensor, derivative: Tensor, e: float) -> bool:
    """Whether differences over e and 2e are as far from each other as from f'(y) v: kinks, and no wrong formula."""
    one, two = central(f, y, v, e), central(f, y, v, 2 * e)
    return bool((one - two).norm() > (one - derivative).norm() / 2)


class Kinks(NamedTuple):
    """What a difference over a finite step is beside f'(y) v: its norm, the relative error, and if kinks cause it."""

    norm: float
    error: float
    found: bool


def kinks(f: VectorFunction, y: Tensor, v: Tensor, derivative: Tensor, step: float, size: float) -> Kinks:
    """Compare f'(y) v with a difference over a finite step.

    Of a smooth f the error falls with the square of the step, over kinks with less than its first power. ``size`` is
    |f(y)|, whose rounding may explain it too.
    """
    norm = float(derivative.norm()) + 1e-300
    difference = central(f, y, v, step)
    error, rounding = (
        float((difference - derivative).norm()) / norm,
        1e3 * torch.finfo(y.dtype).eps * size / step / norm,
    )
    found = error > max(1e-3, rounding)
    if found:  # smooth: a sixteenth of it
        found = float((central(f, y, v, step / 4) - derivative).norm()) / norm > error / 6
    return Kinks(float(difference.norm()), error, found)
