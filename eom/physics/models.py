"""Models of motion: a field to learn, the rule it is learned by, and the stepper it predicts with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eom.dynamics.energy import DiscreteGradient, Structure
from eom.dynamics.runge_kutta import RK4
from eom.dynamics.stepper import Stepper
from eom.dynamics.symplectic import Leapfrog
from eom.errors import DataError, SettingError, StepError
from eom.physics import learned_fields as fields
from eom.physics.learned_fields import dense
from eom.physics.rules import (
    Adaptive,
    Rule,
    Shooting,
    followed,
    match_discrete_gradient,
    match_slopes,
)
from eom.physics.structures import Friction
from eom.physics.systems import rotate
from eom.physics.trajectories import Trajectories, Window


class LearnedSystem(nn.Module):
    """u' = field(u) for states of ``size`` entries; called, it gives the rates [b, n] of states [b, n].

    ``rule`` (field, window) -> residuals is what is made small in training; ``stepper`` is of predictions.
    """

    def __init__(self, size: int, field: nn.Module, rule: Rule, stepper: Stepper):
        super().__init__()
        halved = (fields.SecondOrderField, fields.SeparableField, fields.LagrangianField)
        structure = getattr(field, "structure", None)
        if size % 2 and (isinstance(field, halved) or structure is rotate or isinstance(structure, Friction)):
            raise SettingError(f"size is {size}, expected positions and as many velocities or momenta: an even number")
        self.size, self.field, self.rule, self.stepper = size, field, rule, stepper

    def forward(self, u: Tensor) -> Tensor:
        return self.field(0.0, u)

    def residual(self, window: Window) -> Tensor:
        return self.rule(self.field, window)

    def predict(self, u: Tensor, times: Tensor, substeps: int = 1) -> Trajectories:
        """Trajectories from ``u`` [b, n] at ``times`` [s], of which the first is that of ``u``.

        Raises:
            StepError: the motion leaves the finite numbers, or a step does not converge; with the step's number.
        """
        self.require(u)
        u = u.to(next((x.dtype for x in self.parameters()), u.dtype)).detach()
        states = [u]
        clock = times.to(torch.float64).expand(len(u), -1)
        with torch.no_grad():
            try:
                for y in followed(self.field, self.stepper, u, clock, substeps):
                    if not bool(y.isfinite().all()):
                        raise StepError("the motion has left the finite numbers")
                    states.append(y)
            except StepError as failure:
                raise StepError(
                    f"prediction stopped at step {len(states)} of {clock.shape[1] - 1}: {failure}. Take more substeps, "
                    "or train longer"
                ) from failure
        return Trajectories(clock, torch.stack(states, 1))

    def require(self, u: Tensor) -> None:
        """Raise where states are not of this model."""
        if u.shape[-1] != self.size:
            raise DataError(
                f"states have {u.shape[-1]} entries, the model {self.size}: give it all coordinates of the motion "
                "(positions and their velocities or momenta), or build it for as many"
            )


def mean_square(model: Any, window: Window) -> Tensor:
    """(1/N) sum |residual|^2 over the window's rows and steps: a loss function of (model, batch)."""
    return model.residual(window).square().sum(-1).mean()


def neural_ode(size: int, net: nn.Module | None = None, *, adjoint: bool = False) -> LearnedSystem:
    """u' = net(u), trained through adaptive steps (Chen et al. 2018)."""
    steps = Adaptive(adjoint=adjoint)
    return LearnedSystem(size, fields.PlainField(net or dense(size, size)), Shooting(steps), steps)


def second_order_ode(size: int, net: nn.Module | None = None) -> LearnedSystem:
    """q' = p / m, p' = net(q, p), trained through Runge-Kutta steps (Gruver et al. 2022)."""
    field = fields.SecondOrderField(net or dense(size, size // 2), size)
    return LearnedSystem(size, field, Shooting(RK4()), RK4())


def hamiltonian_network(size: int, energy: nn.Module | None = None, *, rule: Rule = match_slopes) -> LearnedSystem:
    """u' = S grad H(u), of observed rates, or of states by another ``rule`` (Greydanus, Dzamba & Yosinski 2019)."""
    return LearnedSystem(size, fields.EnergyField(energy or dense(size, 1)), rule, Adaptive())


def symplectic_network(size: int, net: Callable[[int, int], nn.Module] = dense) -> LearnedSystem:
    """H = T(p) + V(q), trained and predicted by leapfrog steps, which learns their modified energy.

    Sources: Chen, Zhang, Arjovsky & Bottou, ICLR 2020; Zhu, Jin & Tang 2020 (what it learns).
    """
    field = fields.SeparableField(net(size // 2, 1), net(size // 2, 1))
    return LearnedSystem(size, field, Shooting(Leapfrog()), Leapfrog())


def energy_model(size: int, energy: nn.Module | None = None, structure: Structure = rotate) -> LearnedSystem:
    """(u_1 - u_0) / h = G DG(u_1, u_0), in training and in prediction: energy behaves as G says, whatever is learned.

    Source: Matsubara, Ishikawa & Yaguchi, NeurIPS 2020.
    """
    field = fields.EnergyField(energy or dense(size, 1), structure)
    return LearnedSystem(size, field, match_discrete_gradient, DiscreteGradient())


def damped_energy_model(size: int, energy: nn.Module | None = None) -> LearnedSystem:
    """The same with friction that is learned, G = S - diag(0, r), r >= 0."""
    return energy_model(size, energy, Friction(size))


def lagrangian_network(size: int, net: nn.Module | None = None) -> LearnedSystem:
    """Euler-Lagrange equations of a learned L(q, v), for states of positions and velocities (Cranmer et al. 2020)."""
    softplus: Any = nn.Softplus
    field = fields.LagrangianField(net or dense(size, 1, activation=softplus))
    return LearnedSystem(size, field, Shooting(RK4()), RK4())
