"""Fields with parameters: what a network learns of an equation of motion. States are [b, n]."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eom.calculus.exact import exact
from eom.calculus.modes import require_derivatives
from eom.dynamics.energy import Structure, gradient, numbers
from eom.dynamics.field import require_function
from eom.errors import SettingError, StepError
from eom.physics.limits import require_grid, require_positive, require_whole
from eom.physics.systems import rotate


def dense(inputs: int, outputs: int, width: int = 100, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    """Two hidden layers, orthogonal and without biases at the start, as those of Hamiltonian neural networks.

    With an odd activation it is odd until it is trained: no basis of an energy for ``solve_linear``.
    """
    if not all(type(x) is int and x > 0 for x in (inputs, outputs, width)):
        raise SettingError(
            f"inputs, outputs, width are {inputs!r}, {outputs!r}, {width!r}; expected whole numbers of 1 or more"
        )
    layers = [nn.Linear(inputs, width), nn.Linear(width, width), nn.Linear(width, outputs)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], activation(), layers[1], activation(), layers[2])


class GridEnergy(nn.Module):
    """H(u) = cell * sum over a periodic grid of f(u, D u), D the differences to the next point along each axis.

    f is a network with two hidden layers of ``width``, the same everywhere. u has so many ``fields``, one after the
    other, as displacement and momentum of a wave. ``cell`` is the length or area of a cell, as in an integral; ``unit``
    and ``step`` are typical sizes of u and D u, which spare the optimizer large and small numbers. ``last`` is its last
    layer, in which H is linear.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        width: int = 32,
        *,
        fields: int = 1,
        cell: float = 1.0,
        unit: float = 1.0,
        step: float = 1.0,
        activation: Callable[[], nn.Module] = nn.Tanh,
    ):
        super().__init__()
        require_grid(grid)
        grid = tuple(grid)
        require_whole(fields=fields, width=width)
        require_positive(cell=cell, unit=unit, step=step)
        self.grid, self.cell, self.unit, self.step = grid, cell, unit, step
        self.fields, self.size, inputs = fields, fields * math.prod(grid), fields * (1 + len(grid))
        self.last = nn.Linear(width, 1)
        self.density = nn.Sequential(
            nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation(), self.last
        )

    def forward(self, u: Tensor) -> Tensor:
        at = u.unflatten(-1, (self.fields, *self.grid)).movedim(-1 - len(self.grid), -1)  # [b, *grid, fields]
        steps = [(at.roll(-1, axis) - at) / self.step for axis in range(-1 - len(self.grid), -1)]
        return self.cell * self.density(torch.cat([at / self.unit, *steps], -1)).flatten(1).sum(-1)


class PlainField(nn.Module):
    """u' = net(u): a neural ODE."""

    def __init__(self, net: nn.Module):
        super().__init__()
        require_function(net=net)
        self.net = net

    def forward(self, t: float, u: Tensor) -> Tensor:
        return self.net(u)


class SecondOrderField(nn.Module):
    """q' = p / m, p' = net(q, p), with learned masses m > 0."""

    def __init__(self, net: nn.Module, size: int):
        super().__init__()
        require_function(net=net)
        self.net = net
        self.log_rate = nn.Parameter(torch.zeros(size // 2))

    def forward(self, t: float, u: Tensor) -> Tensor:
        return torch.cat([self.log_rate.exp() * u.chunk(2, -1)[1], self.net(u)], -1)


class EnergyField(nn.Module):
    """u' = G grad H(u) for a learned H [b, n] -> [b] or [b, 1], and a structure G, known or learned.

    Where H has a periodic ``grid``, implicit steps make use of it.
    """

    def __init__(self, energy: nn.Module, structure: Structure = rotate):
        super().__init__()
        require_function(energy=energy, structure=structure)
        self.energy, self.structure = energy, structure
        self.grid: tuple[int, ...] = getattr(energy, "grid", ())

    def forward(self, t: float, u: Tensor) -> Tensor:
        return self.structure(gradient(self.energy, u))


class SeparableField(nn.Module):
    """q' = grad T(p), p' = -grad V(q) for learned T and V [b, n / 2] -> [b, 1]."""

    structure = staticmethod(rotate)

    def __init__(self, kinetic: nn.Module, potential: nn.Module):
        super().__init__()
        self.kinetic, self.potential = kinetic, potential

    def energy(self, u: Tensor) -> Tensor:
        q, p = u.chunk(2, -1)
        return numbers(self.kinetic, p) + numbers(self.potential, q)

    def velocity(self, p: Tensor) -> Tensor:
        return gradient(self.kinetic, p)

    def force(self, q: Tensor) -> Tensor:
        return -gradient(self.potential, q)

    def forward(self, t: float, u: Tensor) -> Tensor:
        q, p = u.chunk(2, -1)
        return torch.cat([self.velocity(p), self.force(q)], -1)


class LagrangianField(nn.Module):
    """(q, v)' = (v, M^-1 (dL/dq - d^2L/dv dq v)), M = d^2L/dv^2, for L = |v|^2 / 2 + net(q, v); states (q, v).

    Source: Cranmer et al., Lagrangian neural networks, 2020, eq. 6.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        require_function(net=net)
        self.net = net

    def lagrangian(self, u: Tensor) -> Tensor:
        """[b] L."""
        return u.chunk(2, -1)[1].square().sum(-1) / 2 + numbers(self.net, u)

    def energy(self, u: Tensor) -> Tensor:
        """[b] v . dL/dv - L, which the flow keeps."""
        v = u.chunk(2, -1)[1]
        return (v * gradient(self.lagrangian, u).chunk(2, -1)[1]).sum(-1) - self.lagrangian(u)

    def forward(self, t: float, u: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # compiled code has no second derivatives
            plain: Any = torch.compiler.disable(self.forward)
            return plain(t, u)
        train = torch.is_grad_enabled()
        known = train and u.requires_grad
        require_derivatives(u)
        half = u.shape[-1] // 2
        v = u[:, half:]
        with torch.enable_grad(), exact(3 if train else 2):
            at = u if known else u.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.lagrangian(at).sum(), at, create_graph=True)
            rows = [
                torch.autograd.grad(slope[:, half + i].sum(), at, create_graph=train, retain_graph=True)[0]
                for i in range(half)
            ]
            second = torch.stack(rows, 1)  # [b, n/2, n] of d^2 L / dv du
            force = slope[:, :half] - (second[..., :half] @ v[..., None])[..., 0]
            try:
                found = torch.cat([v, torch.linalg.solve(second[..., half:], force[..., None])[..., 0]], -1)
            except torch.linalg.LinAlgError as failure:  # type: ignore[attr-defined] - documented, not exported
                raise StepError(
                    "the masses d^2L/dv^2 are singular at one of the states, and L says no acceleration there: take "
                    "another L, or start from other parameters"
                ) from failure
        return found if train else found.detach()
