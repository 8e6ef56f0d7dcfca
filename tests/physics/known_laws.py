"""A spring whose law is known, as data and as a model that has learned it."""

from typing import Any

import torch
from torch import Tensor, nn

from eom import Euler, physics
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.rules import Rule
from eom.physics.systems import rotate

WIDE = torch.float64
EULER = Euler()


class Quadratic(nn.Module):
    """sum_i c_i u_i^2: the spring's energy at c = 1."""

    def __init__(self, size: int = 2, start: float = 1.0):
        super().__init__()
        self.c = nn.Parameter(torch.full((size,), start, dtype=WIDE))

    def forward(self, u: Tensor) -> Tensor:
        return (self.c * u**2).sum(-1)


def in_velocities(data: Trajectories) -> Trajectories:
    """Of the spring, states (q, 2 p) of those (q, p)."""
    return Trajectories(data.times, data.states * torch.tensor([1.0, 2.0], dtype=WIDE))


def spring_data(count: int = 4, noise: float = 0.0, points: int = 30) -> Trajectories:
    return data_sets.springs(noise=noise, points=points).draw(count, seed=0)


def true_spring(rule: Rule, energy: nn.Module | None = None) -> LearnedSystem:
    return LearnedSystem(2, physics.EnergyField(energy or Quadratic()), rule, physics.DiscreteGradient())


def newton(model: nn.Module) -> torch.optim.LBFGS:
    """Which goes on to rounding."""
    return torch.optim.LBFGS(
        model.parameters(), line_search_fn="strong_wolfe", tolerance_grad=1e-13, tolerance_change=1e-16
    )


def shot(activation: Any = nn.Tanh, *, sign=1.0, stepper=EULER, substeps=1) -> LearnedSystem:
    """Of the same parameters, whatever else is said of it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 1))
    field = physics.EnergyField(net, lambda g: sign * rotate(g))
    return LearnedSystem(2, field, physics.Shooting(stepper, substeps), physics.RK4()).double()
