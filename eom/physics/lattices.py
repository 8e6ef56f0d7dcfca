"""Partial differential equations on periodic grids, u_t = G grad H(u), whose discrete energies their steps keep.

A gradient by the values of a grid is that of the functional times the cell, so that G is divided by it. States are
[..., m], or [..., m, m] flattened in two dimensions.

Sources: Furihata & Matsuo, Discrete Variational Derivative Method (2010); Matsubara, Ishikawa & Yaguchi, NeurIPS 2020
(the parameters and the orientation of KdV).
"""

import math

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.errors import SettingError
from eom.physics.limits import require_positive
from eom.physics.systems import System


def korteweg_de_vries(points: int = 50, width: float = 10.0, dimensions: int = 1) -> System:
    """u_t = D (3 u^2 + Laplace u), H = integral of u^3 - |grad u|^2 / 2; D central differences along x: mass is kept.

    A soliton 2 k^2 / cosh^2(k (x - 4 k^2 t)) of u_t + 6 u u_x + u_xxx = 0 travels to the left here. In two dimensions
    it is the equation of Zakharov and Kuznetsov, grids are [y, x].
    """
    dx, shape = _cell(points, width), _shape(points, dimensions)
    cell = dx**dimensions

    def energy(u: State) -> Tensor:
        grid = u.unflatten(-1, shape)
        slopes = sum(((grid.roll(-1, axis) - grid) / dx) ** 2 for axis in range(-dimensions, 0))
        return (grid**3 - slopes / 2).flatten(-dimensions).sum(-1) * cell

    def structure(g: State) -> State:
        grid = g.unflatten(-1, shape)
        return (grid.roll(-1, -1) - grid.roll(1, -1)).flatten(-dimensions) / (2 * dx * cell)

    name = "KdV" if dimensions == 1 else "KdV, two dimensions"
    names = tuple(f"u{k}" for k in range(points**dimensions))
    return System(name, energy, structure, names, {"mass": lambda u: u.sum(-1) * cell}, grid=shape)


def soliton(x: Tensor, speed_root: float, place: float, width: float) -> Tensor:
    """2 k^2 / cosh^2(k (x - place)) on a circle of this ``width``, k = ``speed_root``: it travels at 4 k^2."""
    apart = torch.remainder(x - place + width / 2, width) - width / 2
    return 2 * speed_root**2 / torch.cosh(speed_root * apart) ** 2


def cahn_hilliard(points: int = 50, width: float = 1.0, gamma: float = 5e-4, dimensions: int = 1) -> System:
    """u_t = Laplace dH/du, H = integral of (u^2 - 1)^2 / 4 + gamma |grad u|^2 / 2: H falls, mass is kept."""
    dx, shape, axes = _cell(points, width), _shape(points, dimensions), range(-dimensions, 0)
    require_positive(gamma=gamma)
    cell = dx**dimensions

    def energy(u: State) -> Tensor:
        grid = u.unflatten(-1, shape)
        slopes = sum(((grid.roll(-1, axis) - grid) / dx) ** 2 for axis in axes)
        return ((grid**2 - 1) ** 2 / 4 + gamma / 2 * slopes).flatten(-dimensions).sum(-1) * cell

    def structure(g: State) -> State:
        grid = g.unflatten(-1, shape)
        second = torch.stack([grid.roll(-1, axis) - 2 * grid + grid.roll(1, axis) for axis in axes]).sum(0)
        return second.flatten(-dimensions) / (dx * dx * cell)

    names = tuple(f"u{k}" for k in range(points**dimensions))
    name = "Cahn-Hilliard" if dimensions == 1 else "Cahn-Hilliard, two dimensions"
    conserved = {"mass": lambda u: u.sum(-1) * cell}
    return System(name, energy, structure, names, conserved, dissipates=True, grid=shape)


def wave(points: int = 50, width: float = 1.0, speed: float = 1.0) -> System:
    """u_tt = speed^2 u_xx for states (u, v): H = integral of (v^2 + speed^2 u_x^2) / 2."""
    dx = _cell(points, width)
    require_positive(speed=speed)

    def energy(y: State) -> Tensor:
        u, v = y.chunk(2, -1)
        slope = (u.roll(-1, -1) - u) / dx
        return (v**2 + speed**2 * slope**2).sum(-1) * dx / 2

    def structure(g: State) -> State:
        u, v = g.chunk(2, -1)
        return torch.cat([v, -u], -1) / dx

    def solution(t: float, y: State) -> State:
        """Of the grid's own equation, mode by mode."""
        u, v = y.chunk(2, -1)
        k = torch.arange(points // 2 + 1, dtype=y.dtype)
        rates = 2 * speed / dx * torch.sin(math.pi * k / points)
        a, b = torch.fft.rfft(u), torch.fft.rfft(v)
        c, s = torch.cos(rates * t), torch.sin(rates * t)
        over = torch.where(rates == 0, t, s / torch.where(rates == 0, 1.0, rates))
        return torch.cat(
            [torch.fft.irfft(a * c + b * over, points), torch.fft.irfft(b * c - a * s * rates, points)], -1
        )

    names = (*(f"u{k}" for k in range(points)), *(f"v{k}" for k in range(points)))
    conserved = {"momentum": lambda y: y.chunk(2, -1)[1].sum(-1) * dx}
    return System("wave equation", energy, structure, names, conserved, solution=solution, grid=(points,))


def _cell(points: int, width: float) -> float:
    if type(points) is not int or points < 4:
        raise SettingError(f"points is {points!r}, expected a whole number of 4 or more")
    require_positive(width=width)
    return width / points


def _shape(points: int, dimensions: int) -> tuple[int, ...]:
    if type(dimensions) is not int or dimensions not in (1, 2):
        raise SettingError(f"dimensions is {dimensions!r}, expected 1 or 2")
    return (points,) * dimensions
