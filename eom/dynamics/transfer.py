"""Expectations of one-dimensional processes as matrices on a periodic grid: no sampling, errors to rounding.

A process on the circle of circumference ``length`` takes an observable phi to (P phi)(y) = E[phi(y_1) | y_0 = y]. On g
points and for smooth problems P is known to rounding from trigonometric interpolation.

Source: Trefethen, Spectral Methods in MATLAB (2000), ch. 3.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.dynamics.sde import Sde


def grid(points: int, length: float = 2 * pi) -> Tensor:
    """[g] equidistant points of [0, length)."""
    return torch.arange(points, dtype=torch.float64) * (length / points)


def interpolation(y: Tensor, points: int, length: float = 2 * pi) -> Tensor:
    """[..., g] weights of the values on the grid in the trigonometric interpolant at ``y`` [...]; odd g."""
    angle = (2 * pi / length) * (y[..., None] - grid(points, length))
    k = torch.arange(1, points // 2 + 1, dtype=torch.float64)
    return (1 + 2 * torch.cos(k * angle[..., None]).sum(-1)) / points


def transfer(step: Callable[[State], State], weights: Tensor, points: int, length: float = 2 * pi) -> Tensor:
    """[g, g] P of a chain: ``step`` takes [q, g, 1] to [q, g, 1], row by row with random numbers of ``weights`` [q]."""
    y = grid(points, length)
    after = step(y[None, :, None].expand(len(weights), -1, -1))[..., 0]
    return torch.stack([w * interpolation(a, points, length) for w, a in zip(weights, after, strict=True)]).sum(0)


def semigroup(sde: Sde, t: float, points: int, length: float = 2 * pi) -> Tensor:
    """[g, g] P after time ``t``, exp(t (b d/dy + (sigma sigma^T / 2) d^2/dy^2)), of an autonomous ``sde``."""
    sde, y = sde.read_as("ito"), grid(points, length)[:, None]
    m = sde.noise.channels(y)
    columns = [sde.noise(0.0, y, e.expand(points, m)) for e in torch.eye(m, dtype=y.dtype)]
    first = derivative(points, length)
    squares = torch.cat(columns, -1).square().sum(-1, keepdim=True)
    generator = sde.drift(0.0, y) * first + squares / 2 * (first @ first)
    return torch.linalg.matrix_exp(t * generator)


def derivative(points: int, length: float = 2 * pi) -> Tensor:
    """[g, g] the derivative of the interpolant at the grid points; odd g."""
    k = torch.arange(points)
    apart = k[:, None] - k
    signs = torch.where(apart % 2 == 0, 1.0, -1.0).double()
    found = (pi / length) * signs / torch.sin(pi * apart.double() / points)
    return found.fill_diagonal_(0)
