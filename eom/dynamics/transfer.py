"""Expectations of one-dimensional processes as matrices on a grid: no sampling, errors to rounding.

A process takes an observable phi to (P phi)(y) = E[phi(y_1) | y_0 = y]. Of smooth problems P is known to rounding from
an interpolant on g points: trigonometric on a ``Circle``, polynomial on an ``Interval``.

Source: Trefethen, Spectral Methods in MATLAB (2000), ch. 3; Berrut & Trefethen, SIAM Review 46(3), 2004, sec. 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.dynamics.sde import Sde
from eom.errors import ExplosionError, SettingError

LOST = 1e-3  # chance at the ends of an interval at which it is too short


@dataclass(frozen=True)
class Circle:
    """Periodic functions of period ``length`` on ``points`` equidistant points, an odd number."""

    points: int
    length: float = 2 * pi

    def __post_init__(self) -> None:
        if type(self.points) is not int or self.points < 3 or self.points % 2 == 0:
            raise SettingError(
                f"points is {self.points!r}, expected an odd number: of an even one no interpolant is exact"
            )

    def grid(self) -> Tensor:
        """[g] in [0, length)."""
        return torch.arange(self.points, dtype=torch.float64) * (self.length / self.points)

    def at(self, y: Tensor) -> Tensor:
        """[..., g] weights of the values on the grid in the interpolant at ``y`` [...]."""
        angle = (2 * pi / self.length) * (y[..., None] - self.grid())
        k = torch.arange(1, self.points // 2 + 1, dtype=torch.float64)
        return (1 + 2 * torch.cos(k * angle[..., None]).sum(-1)) / self.points

    def derivative(self) -> Tensor:
        """[g, g] of the interpolant, at the points of the grid."""
        k = torch.arange(self.points)
        apart = k[:, None] - k
        signs = torch.where(apart % 2 == 0, 1.0, -1.0).double()
        found = (pi / self.length) * signs / torch.sin(pi * apart.double() / self.points)
        return found.fill_diagonal_(0)


@dataclass(frozen=True)
class Interval:
    """Functions on [low, high] at ``points`` Chebyshev points; what leaves the interval is taken to its end.

    For a process on the line, wide enough that where it seldom goes makes no difference.
    """

    points: int
    low: float
    high: float

    def grid(self) -> Tensor:
        """[g] rising."""
        angle = torch.linspace(pi, 0, self.points, dtype=torch.float64)
        return self.low + (self.high - self.low) * (1 + torch.cos(angle)) / 2

    def at(self, y: Tensor) -> Tensor:
        """[..., g] weights of the values on the grid in the interpolant at ``y`` [...]."""
        weights = torch.where(torch.arange(self.points) % 2 == 0, 1.0, -1.0).double()
        weights[[0, -1]] /= 2
        apart = y.clamp(self.low, self.high)[..., None] - self.grid()
        share = weights / torch.where(apart == 0, 1.0, apart)
        on = (apart == 0).double()
        hit = on.sum(-1, keepdim=True) > 0
        return torch.where(hit, on, share / share.sum(-1, keepdim=True))


def transfer(step: Callable[[State], State], weights: Tensor, basis: Circle | Interval) -> Tensor:
    """[g, g] P of a chain: ``step`` takes [q, g, 1] to [q, g, 1], row by row with random numbers of ``weights`` [q]."""
    y = basis.grid()
    after = step(y[None, :, None].expand(len(weights), -1, -1))[..., 0]
    return torch.stack([w * basis.at(a) for w, a in zip(weights, after, strict=True)]).sum(0)


def semigroup(sde: Sde, t: float, basis: Circle) -> Tensor:
    """[g, g] P after time ``t``, exp(t (b d/dy + (sigma sigma^T / 2) d^2/dy^2)), of an autonomous ``sde``."""
    sde, y = sde.read_as("ito"), basis.grid()[:, None]
    m = sde.noise.channels(y)
    columns = [sde.noise(0.0, y, e.expand(len(y), m)) for e in torch.eye(m, dtype=y.dtype)]
    first = basis.derivative()
    squares = torch.cat(columns, -1).square().sum(-1, keepdim=True)
    return torch.linalg.matrix_exp(t * (sde.drift(0.0, y) * first + squares / 2 * (first @ first)))


def stationary(chain: Tensor, phi: Tensor) -> float:
    """E phi in the stationary law of ``chain`` [g, g] on an ``Interval``, for an observable [g]: what P^N phi tends to.

    Raises:
        ExplosionError: there is no single such law, or it lies at the ends of the interval.
    """
    for _ in range(40):
        chain = chain @ chain
        chain = chain / chain.sum(1, keepdim=True)  # rounding of rows, which sum to 1
    law, apart = chain.mean(0), float((chain - chain.mean(0)).abs().max())
    lost = float(law[[0, -1]].abs().sum())
    if not (apart < LOST and lost < LOST):
        raise ExplosionError(
            "the chain has no stationary law within the interval: the step is too large and it runs away, or the "
            f"interval is too short (chance of its ends: {lost:.2g}; differences between starts: {apart:.2g})"
        )
    return float((chain @ phi).mean())
