"""Probes of derivatives: against differences over a long and a short step, against symmetry."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eom.calculus.inner import dot, norm

VectorFunction = Callable[[Tensor], Tensor]  # [n] -> [m]

ROUNDINGS = 1e4  # on the way to one number, of which the relative rounding is then eps sqrt(ROUNDINGS)
LONG, SHORT = 1 / 3, 1 / 2  # powers of eps: the best step of a central difference, and the best of a forward one


class Agreement(NamedTuple):
    """How far a derivative is from differences, relative to them, in its worst block."""

    error: float
    allowed: float  # the limit, and what kinks between the points of the differences explain

    @property
    def holds(self) -> bool:
        return self.error <= self.allowed


def direction(y: Tensor, sizes: Sequence[int], seed: int) -> Tensor:
    """A random unit vector [n] that moves every block of ``y`` by about the same share of it.

    A block of few or small entries then weighs as much as any other; one of zeros is moved by a tenth of the mean.
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float32).to(y)
    least = float(norm(y)) / y.numel() ** 0.5 / 10 or 1.0
    for part, block in zip(v.split(list(sizes)), y.split(list(sizes)), strict=True):
        part *= (norm(block) / max(block.numel(), 1) ** 0.5).clamp(min=least)
    return v.div_(norm(v))


def scale(y: Tensor) -> float:
    """What steps are measured in: |y|, or 1 where that is smaller."""
    return max(float(norm(y)), 1.0)


def beside(y: Tensor, sizes: Sequence[int], share: float) -> Tensor:
    """A point [n] away from ``y`` [n] by this share of it: not at zeros of an initialisation, kinks or minima."""
    return torch.add(y, direction(y, sizes, 2), alpha=share * scale(y))


def central(f: VectorFunction, y: Tensor, v: Tensor, e: float) -> Tensor:
    """(f(y + e v) - f(y - e v)) / 2e."""
    return (f(y + e * v) - f(y - e * v)) / (2 * e)


def rounding(size: float, eps: float) -> float:
    """Of a number that comes out of others of this size, whose roundings add up as a random walk does.

    Source: Higham & Mary, A new approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41(5), 2019.
    """
    return eps * ROUNDINGS**0.5 * size


def worst(found: Sequence[Agreement]) -> Agreement:
    """The block that is farthest beyond what is allowed, or nearest to it."""
    return max(found, key=lambda x: x.error / x.allowed)


def agreements(
    f: VectorFunction,
    y: Tensor,
    v: Tensor,
    derivative: Tensor,
    *,
    at: Tensor,
    limit: float,
    eps: float,
    sizes: Sequence[int] = (),
    own: float = 0.0,
) -> list[Agreement]:
    """Compare f'(y) v, ``derivative`` [m], with differences, block by block.

    A right derivative lies between the forward and the backward difference, to the error of second order in the step,
    also where a kink (ReLU, max) stands between the points. Each block is judged by the step that tells more: kinks
    fall on the long one, rounding on the short one, a wrong formula on both.

    Args:
        at: f(y) [m]. limit: of the relative error. eps: relative rounding inside f. sizes: of the blocks of
            ``derivative``; one block by default. own: absolute rounding of ``derivative``, if more than that of f.

    Returns:
        One for each block.
    """
    blocks = list(sizes) or [derivative.numel()]
    parts = derivative.split(blocks)

    def sides(e: float) -> tuple[float, Tensor, Tensor]:
        while True:
            ahead, behind = (f(torch.add(y, v, alpha=sign * e)) for sign in (1, -1))
            outside = bool(at.isfinite().all()) and not bool((ahead + behind).isfinite().all())
            # as beside the zero of a logarithm; a shorter step yet would be lost in the rounding of y
            if not (outside and e > 1e6 * eps * scale(y)):
                return e, ahead, behind
            e /= 100

    def differences(power: float) -> list[_Difference]:
        e, ahead, behind = sides(scale(y) * eps**power)
        noise = rounding(float(norm(at)) / e + float(norm(derivative)), eps) + own
        three = zip(*(x.split(blocks) for x in (ahead, behind, at)), strict=True)  # by block, which takes less memory
        return [_Difference((a - b) / (2 * e), _size((a + b - 2 * c) / e), noise) for a, b, c in three]

    def each(of: list[_Difference]) -> list[Agreement]:
        return [d.agreement(x, limit) for d, x in zip(of, parts, strict=True)]

    long = differences(LONG)
    found = each(long)
    if not all(x.error <= limit for x in found):
        short = differences(SHORT)
        sharper = [s if s.blur < max(x.blur, _size(x.value - s.value)) else x for x, s in zip(long, short, strict=True)]
        found = each(sharper)
    return found


class _Difference(NamedTuple):
    """A central difference, what is between the forward and the backward one, and their rounding.

    Jumps a ahead and b behind put the central difference off by (a + b) / 2, and make a gap of a - b: half of it where
    there is one jump, all of it leaves room for several on both sides that are alike.
    """

    value: Tensor
    gap: float
    noise: float

    @property
    def blur(self) -> float:
        return self.gap + self.noise

    def agreement(self, derivative: Tensor, limit: float) -> Agreement:
        size = float(norm(self.value)) + self.noise / limit + 1e-300  # a smaller block cannot be told from rounding
        error, allowed = _size(derivative - self.value) / size, limit + self.gap / size
        if error < torch.inf:
            return Agreement(error, allowed)
        return Agreement(torch.inf, limit)  # no number: worse than any other block


def _size(x: Tensor) -> float:
    """|x|, infinite where it is no number."""
    return float(norm(x).nan_to_num(nan=torch.inf))


def asymmetry(u: Tensor, v: Tensor, hu: Tensor, hv: Tensor) -> float:
    """|u . H v - v . H u| relative to (|H u| |H v|)^(1/2)."""
    size = float((norm(hu) * norm(hv)).sqrt())
    error = abs(float(dot(u, hv) - dot(v, hu)))
    return error / size if size else error


def rounds_to_single(value: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, slope: float) -> bool:
    """Whether a function of double precision is rounded to single inside: its slope is wrong over short steps only.

    Two longer ones have to be right, or curvature might hide a wrong gradient by accident; and what is wrong has to be
    as small as rounding is, also over a step between, where the stairs of a quantised function add up to more.
    """
    if y.dtype != torch.float64:
        return False
    eps = torch.finfo(torch.float32).eps
    short, long = (scale(y) * torch.finfo(dtype).eps ** (1 / 3) for dtype in (torch.float64, torch.float32))
    errors = {e: abs(float(central(value, y, v, e)) - slope) for e in (short, (short * long) ** 0.5, long / 2, long)}
    off, between, *longer = errors.items()
    noise = rounding(float(value(y).abs()), eps)
    return max(x for _, x in longer) < off[1] / 10 and all(e * x <= noise for e, x in (off, between))


class Kinks(NamedTuple):
    """What a difference over a finite step is beside f'(y) v: its norm, the relative error, and if kinks cause it."""

    norm: float
    error: float
    found: bool


def kinks(f: VectorFunction, y: Tensor, v: Tensor, derivative: Tensor, step: float, size: float) -> Kinks:
    """Compare f'(y) v with a difference over a finite step.

    Of a smooth f the error falls with the square of the step; over kinks with less than its first power, or all at
    once where the shorter step crosses none. ``size`` is |f(y)|, whose rounding may explain it too.
    """
    length = float(norm(derivative)) + 1e-300
    difference = central(f, y, v, step)
    error = float(norm(difference - derivative)) / length
    noise = rounding(size / step, torch.finfo(y.dtype).eps) / length
    found = error > max(1e-3, noise)
    if found:  # smooth: a sixteenth of it
        shorter = float(norm(central(f, y, v, step / 4) - derivative)) / length
        found = not error / 96 < shorter < error / 6
    return Kinks(float(norm(difference)), error, found)
