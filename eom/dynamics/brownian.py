"""Brownian paths from a counter: the k-th increment is a function of seed and k, on every halving of the grid."""

import math
from dataclasses import dataclass, replace
from functools import cache
from threading import get_ident
from typing import NamedTuple

import torch
from torch import Tensor

from eom.errors import SettingError

MASK = (1 << 64) - 1


class Interval(NamedTuple):
    """A piece of a path: dW [..., m] over it, and its area A = (1/h) integral of W_s - (s/h) W_h ds, where known."""

    index: int
    level: int
    w: Tensor
    area: Tensor | None


class Place(NamedTuple):
    """Where a march stands on a path: the next interval of the coarsest grid, and finer ones that are waiting."""

    index: int = 0
    waiting: tuple[Interval, ...] = ()


@dataclass(frozen=True)
class Brownian:
    """m independent Brownian motions for each member of a batch, on a grid of equal steps.

    At ``level`` l every interval of level 0 is halved l times, on the same path: a march with step h / 2^l at level l
    sees the path that one with step h sees at level 0. Memory grows with l alone, and an interval takes two normal
    draws for each Brownian motion on average.

    Source: the halving of (dW, A), Foster, Lyons & Oberhauser, SIAM J. Numer. Anal. 58(3), 2020, thm. 4.
    """

    seed: int = 0
    level: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (("seed", self.seed, MASK), ("level", self.level, 60)):
            if type(value) is not int or not 0 <= value <= most:
                raise SettingError(f"{name} is {value!r}, expected a whole number from 0 to {most}")

    def refined(self, levels: int = 1) -> "Brownian":
        """The same path on a grid 2^levels times as fine."""
        return replace(self, level=self.level + levels)

    def next(self, place: Place, h: float, y: Tensor, channels: int) -> tuple[Interval, Place]:
        """The interval [kh, (k+1)h] at ``place``, with dW [..., m] for a state y [..., n], and the place behind it."""
        index, waiting = place
        if waiting:
            first, *rest = waiting
        else:
            w = self._normal(0, index, 0, y, channels, h * 2**self.level)
            first, rest, index = Interval(index, 0, w, None), (), index + 1
        if first.level > self.level:
            raise SettingError(
                f"the march stands within a step of level {self.level}: it can be refined, not made coarser"
            )
        while first.level < self.level:
            first, second = self._halves(first, h * 2 ** (self.level - first.level))
            rest = (second, *rest)
        return first, Place(index, tuple(rest))

    def area(self, interval: Interval, h: float) -> Tensor:
        """A [..., m] over an interval of length h, normal with variance h / 12, independent of dW."""
        if interval.area is not None:
            return interval.area
        w = interval.w
        return self._normal(interval.level, interval.index, 1, w, w.shape[-1], h / 12)

    def signs(self, interval: Interval, count: int) -> Tensor:
        """+-1 [..., count] with equal chances, independent of the path."""
        return self._normal(interval.level, interval.index, 2, interval.w, count, 1.0).sign()

    def _halves(self, whole: Interval, h: float) -> tuple[Interval, Interval]:
        """Both halves of an interval of length h."""
        level, left, right = whole.level + 1, 2 * whole.index, 2 * whole.index + 1
        w, area = whole.w, self.area(whole, h)
        z = self._normal(level, left, 0, w, w.shape[-1], h / 16)
        n = self._normal(level, left, 1, w, w.shape[-1], h / 12)
        bend = 1.5 * area + z
        return (
            Interval(left, level, w / 2 + bend, area / 4 - z / 2 + n / 2),
            Interval(right, level, w / 2 - bend, area / 4 - z / 2 - n / 2),
        )

    def _normal(self, level: int, index: int, kind: int, like: Tensor, channels: int, variance: float) -> Tensor:
        """Normal numbers [..., channels] of their own for every level, index and kind."""
        generator = generator_of(like.device, get_ident()).manual_seed(stream(self.seed, 3 * level + kind, index))
        empty = like.new_empty((*like.shape[:-1], channels))
        return empty.normal_(0.0, math.sqrt(variance), generator=generator)


@cache
def generator_of(device: torch.device, thread: int) -> torch.Generator:
    """One for each thread, seeded anew at every use: to make one takes a quarter of a draw's time."""
    return torch.Generator(device)


def stream(seed: int, kind: int, index: int) -> int:
    """A seed for the numbers of one ``kind`` at one ``index``.

    torch's generator takes 32 bits of it, so that hashes of all three would collide after some 10^5 draws; here the
    indices of one kind stay apart for 2^32 draws.
    """
    return (first_of(seed, kind) + index) & 0xFFFFFFFF


@cache
def first_of(seed: int, kind: int) -> int:
    """Where the indices of a kind begin."""
    return mixed(mixed(seed) + kind)


def mixed(x: int) -> int:
    """A permutation of 64-bit numbers that spreads every bit (Steele, Lea & Flood, splitmix64, OOPSLA 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)
