"""A spring whose law is known, as data and as a model that has learned it."""

import torch
from torch import Tensor, nn

from eom import physics
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.rules import Rule

WIDE = torch.float64


class Quadratic(nn.Module):
    """sum_i c_i u_i^2: the spring's energy at c = 1."""

    def __init__(self, size: int = 2, start: float = 1.0):
        super().__init__()
        self.c = nn.Parameter(torch.full((size,), start, dtype=WIDE))

    def forward(self, u: Tensor) -> Tensor:
        return (self.c * u**2).sum(-1)


def spring_data(count: int = 4, noise: float = 0.0, points: int = 30) -> Trajectories:
    return data_sets.springs(noise=noise, points=points).draw(count, seed=0)


def true_spring(rule: Rule, energy: nn.Module | None = None) -> LearnedSystem:
    return LearnedSystem(2, physics.EnergyField(energy or Quadratic()), rule, physics.DiscreteGradient())


def newton(model: nn.Module) -> torch.optim.LBFGS:
    """Which goes on to rounding."""
    return torch.optim.LBFGS(
        model.parameters(), line_search_fn="strong_wolfe", tolerance_grad=1e-13, tolerance_change=1e-16
    )
