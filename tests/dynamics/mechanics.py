"""Small mechanical systems and a gradient flow of a field, by their energies."""

import torch
from torch import Tensor

from eom.dynamics.energy import EnergySystem
from eom.dynamics.symplectic import Separable

CELLS, GAMMA = 32, 1e-3


def rotate(g: Tensor) -> Tensor:
    """S g for S = [[0, 1], [-1, 0]] in blocks."""
    q, p = g.chunk(2, -1)
    return torch.cat([p, -q], -1)


def pendulum(u: Tensor) -> Tensor:
    return u[..., 1] ** 2 / 2 + 1 - torch.cos(u[..., 0])


def henon_heiles(u: Tensor) -> Tensor:
    x, y, *_ = u.unbind(-1)
    return u.square().sum(-1) / 2 + x**2 * y - y**3 / 3


def interface(u: Tensor) -> Tensor:
    """Cahn-Hilliard's energy on a circle of length 1."""
    slope = (u.roll(-1, -1) - u) * CELLS
    return ((u**2 - 1) ** 2 / 4 + GAMMA / 2 * slope**2).sum(-1) / CELLS


def laplacian(g: Tensor) -> Tensor:
    return (g.roll(-1, -1) - 2 * g + g.roll(1, -1)) * CELLS**3  # grad H is a derivative by values on cells of 1 / CELLS


PENDULUM, HENON_HEILES = EnergySystem(pendulum, rotate), EnergySystem(henon_heiles, rotate)
CAHN_HILLIARD = EnergySystem(interface, laplacian)
SPLIT_PENDULUM = Separable(lambda p: p, lambda q: -torch.sin(q))


def start(samples: int = 4, size: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.4 * torch.randn(samples, size, generator=generator, dtype=torch.float64)
