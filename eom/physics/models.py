"""Models of motion: a field to learn, the rule it is learned by, and the stepper it predicts with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from eom.dynamics.energy import DiscreteGradient, Structure
from eom.dynamics.energy_law import energy_law
from eom.dynamics.runge_kutta import RK4
from eom.dynamics.stepper import Stepper, require_stepper
from eom.dynamics.symplectic import Leapfrog
from eom.errors import DataError, EomError, SettingError, StepError
from eom.physics import learned_fields as fields
from eom.physics.learned_fields import dense
from eom.physics.limits import (
    is_dense,
    require_apart,
    require_energy,
    require_finite,
    require_grid,
    require_halves,
    require_periodic,
    require_whole,
    said,
)
from eom.physics.rules import (
    Adaptive,
    Rule,
    Shooting,
    followed,
    match_discrete_gradient,
    match_slopes,
    require_rule,
)
from eom.physics.structures import Friction
from eom.physics.systems import rotate
from eom.physics.trajectories import Trajectories, Window, clock


class LearnedSystem(nn.Module):
    """u' = field(u) for states of ``size`` entries; called, it gives the rates [b, n] of states [b, n].

    ``rule`` (field, window) -> residuals is what is made small in training; ``stepper`` is of predictions.
    """

    def __init__(self, size: int, field: nn.Module, rule: Rule, stepper: Stepper):
        super().__init__()
        if type(size) is not int or size < 1:
            raise SettingError(f"size is {size!r}, expected a whole number of entries")
        if not isinstance(field, nn.Module):
            raise SettingError(f"the field is a {type(field).__name__}, expected a module, such as PlainField(net)")
        halved = (fields.SecondOrderField, fields.SeparableField, fields.LagrangianField)
        structure = getattr(field, "structure", None)
        if isinstance(field, halved) or structure is rotate or isinstance(structure, Friction):
            require_halves(size)
        self.grid: tuple[int, ...] = getattr(field, "grid", ())
        require_grid(self.grid, size)
        own = getattr(getattr(field, "energy", None), "size", size)
        if own != size:
            raise SettingError(f"size is {size}, and the energy is one of states of {own} entries, fields x grid")
        theirs = getattr(structure, "grid", ())
        if theirs and (prod(theirs) != size or (self.grid and theirs != self.grid)):
            raise SettingError(
                f"the structure is of one field on the grid {theirs}, and the energy of states of {size} entries"
                + (f" on {self.grid}: give both the same grid" if self.grid else "")
            )
        require_stepper(stepper)
        require_rule(rule)
        self.size, self.field, self.rule, self.stepper = size, field, rule, stepper

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rule" and not isinstance(value, nn.Module):  # torch keeps a module's place for modules
            self._modules.pop("rule", None)
        super().__setattr__(name, value)

    @property
    def dtype(self) -> torch.dtype:
        """The floats of its parameters, in which states are taken."""
        return next((x.dtype for x in self.parameters()), torch.float64)

    def forward(self, u: Tensor) -> Tensor:
        return self.field(0.0, u)

    def residual(self, window: Window) -> Tensor:
        return self.rule(self.field, window)

    def predict(self, u: Tensor, times: Tensor, substeps: int = 1, entries: tuple[str, ...] = ()) -> Trajectories:
        """Trajectories from ``u`` [b, n] at ``times`` [s] or [b, s], of which the first is that of ``u``.

        ``entries`` names the n coordinates, as ``data.entries``.

        Raises:
            DataError: states that are not of this model, a field that is not of such states, or times that are none of
            ``Trajectories``. StepError: the motion leaves the finite numbers, or a step does not converge; with the
            step's number.
        """
        self.require(u)
        if u.ndim != 2:
            raise DataError(f"u has shape {list(u.shape)}, expected [b, {self.size}]: a state for each trajectory")
        require_finite("u", u)
        u = u.to(self.dtype).detach()
        states, at = [u], clock(times, u, entries)
        with torch.no_grad(), as_predicting(self):
            self.require_each(u[[0, -1]])
            try:
                for y in followed(self.field, self.stepper, u, at, substeps):
                    if not bool(y.isfinite().all()):
                        raise StepError("the motion has left the finite numbers")
                    states.append(y)
            except StepError as failure:
                raise StepError(
                    f"prediction stopped at step {len(states)} of {at.shape[1] - 1}: {failure}. Take more substeps, "
                    "or train longer"
                ) from failure
        return Trajectories(at, torch.stack(states, 1), entries)

    def require_each(self, u: Tensor) -> None:
        """Raise where the energy, or the rate, of one of states [2, n] is not its own."""
        energy = getattr(self.field, "energy", None)
        if energy is None:
            require_apart("a rate", self, u)
        else:
            require_energy(energy, u)

    def require(self, u: Tensor) -> None:
        """Raise where states [..., n] are not of this model, or its field gives no rates of them."""
        real = is_dense(u) and not u.is_complex() and u.dtype is not torch.bool
        if not real or not (u.ndim and u.numel()):
            raise DataError(f"states are {said(u)}, expected a dense tensor [..., {self.size}] of real numbers")
        if u.shape[-1] != self.size:
            raise DataError(
                f"states have {u.shape[-1]} entries, the model {self.size}: give it all coordinates of the motion "
                "(positions and their velocities or momenta), or build it for as many"
            )
        lost = [name for name, x in self.named_parameters() if not bool(x.isfinite().all())]
        if lost:
            raise SettingError(
                f"{len(lost)} parameters of the model hold NaN or infinity, such as {lost[0]}: build it anew, and "
                "train with a smaller learning rate"
            )
        at = u.detach().reshape(-1, self.size)[:2].to(self.dtype)
        try:
            with torch.no_grad():
                came = self(at)
        except EomError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as failure:
            raise DataError(f"the model's field does not take states {list(at.shape)}: {failure}") from failure
        if not is_dense(came) or not came.is_floating_point() or came.shape != at.shape:
            raise DataError(
                f"the model's field maps states {list(at.shape)} to {said(came)}, expected a rate of each entry, as a "
                "tensor of real numbers: give its network as many outputs"
            )
        require_periodic(u, self.grid)


@contextmanager
def as_predicting(model: Any) -> Iterator[None]:
    """The modules of one, if it has any, in the mode of ``eval()``, as for Dropout, and as they were afterwards."""
    modes = {m: m.training for m in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        for m in modes:
            m.training = False
        yield
    finally:
        for m, training in modes.items():
            m.training = training


def mean_square(model: Any, window: Window) -> Tensor:
    """(1/N) sum |residual|^2 over the window's rows and steps: a loss function of (model, batch)."""
    return model.residual(window).square().sum(-1).mean()


def given(net: nn.Module | None, inputs: int, outputs: int, **settings: Any) -> nn.Module:
    """A network [..., inputs] -> [..., outputs] of the user's own, of whatever length, or a dense one."""
    return dense(inputs, outputs, **settings) if net is None else net


def neural_ode(size: int, net: nn.Module | None = None, *, adjoint: bool = False) -> LearnedSystem:
    """u' = net(u), trained through adaptive steps (Chen et al. 2018).

    Each takes several evaluations of net, and none that draws random numbers, as Dropout does: where data are close in
    time, or with Dropout, ``LearnedSystem(size, PlainField(net),
    Shooting(RK4()), Adaptive())`` is trained through one step of four.
    """
    steps = Adaptive(adjoint=adjoint)
    return LearnedSystem(size, fields.PlainField(given(net, size, size)), Shooting(steps), steps)


def second_order_ode(size: int, net: nn.Module | None = None) -> LearnedSystem:
    """q' = p / m, p' = net(q, p), trained through Runge-Kutta steps (Gruver et al. 2022)."""
    require_whole(size=size)
    require_halves(size)
    field = fields.SecondOrderField(given(net, size, size // 2), size)
    return LearnedSystem(size, field, Shooting(RK4()), RK4())


def hamiltonian_network(size: int, energy: nn.Module | None = None, *, rule: Rule = match_slopes) -> LearnedSystem:
    """u' = S grad H(u), of observed rates, or of states by another ``rule`` (Greydanus, Dzamba & Yosinski 2019)."""
    return LearnedSystem(size, fields.EnergyField(given(energy, size, 1)), rule, Adaptive())


def symplectic_network(size: int, net: Callable[[int, int], nn.Module] = dense) -> LearnedSystem:
    """H = T(p) + V(q), trained and predicted by leapfrog steps, which learns the modified energy of one step size.

    Uneven times have no one step size, and what is learned of them is none in particular.

    Sources: Chen, Zhang, Arjovsky & Bottou, ICLR 2020; Zhu, Jin & Tang 2020 (what it learns).
    """
    require_whole(size=size)
    require_halves(size)
    if isinstance(net, nn.Module) or not callable(net):
        raise SettingError(f"net is {net!r}, expected a function of sizes that makes one, such as dense")
    field = fields.SeparableField(net(size // 2, 1), net(size // 2, 1))
    return LearnedSystem(size, field, Shooting(Leapfrog()), Leapfrog())


def energy_model(size: int, energy: nn.Module | None = None, structure: Structure = rotate) -> LearnedSystem:
    """(u_1 - u_0) / h = G DG(u_1, u_0), in training and in prediction: energy behaves as G says, whatever is learned.

    Raises:
        SettingError: a structure that is not learned and by which energy may rise and fall.

    Source: Matsubara, Ishikawa & Yaguchi, NeurIPS 2020.
    """
    field = fields.EnergyField(given(energy, size, 1), structure)
    model = LearnedSystem(size, field, match_discrete_gradient, DiscreteGradient())
    learned = any(x.requires_grad for x in getattr(structure, "parameters", tuple)())
    if not learned and energy_law(structure, size) is None:
        raise SettingError(
            "the structure G is neither skew nor negative semidefinite: energy may rise and fall. Take another sign, "
            "or LearnedSystem(size, EnergyField(energy, G), rule, stepper), which promises no law"
        )
    return model


def damped_energy_model(size: int, energy: nn.Module | None = None) -> LearnedSystem:
    """The same with friction that is learned, G = S - diag(0, r), r >= 0: constant, and linear in velocities dH/dp.

    Any other drag, as a quadratic one, is none of it: ``second_order_ode`` learns it, without an energy.
    """
    return energy_model(size, energy, Friction(size))


def lagrangian_network(size: int, net: nn.Module | None = None) -> LearnedSystem:
    """Euler-Lagrange equations of a learned L(q, v), for states of positions and velocities (Cranmer et al. 2020).

    ``net`` [b, size] -> [b, 1] is L less |v|^2 / 2, with which training starts.

    ``fit`` refuses states of which a position plainly changes 1.8 times as fast as its velocity says, as momenta of
    bodies do whose masses are not coupled.

    Motion of one dimension is that of many L: the energy that is learned may be any function of the true one.
    """
    softplus: Any = nn.Softplus
    field = fields.LagrangianField(given(net, size, 1, activation=softplus))
    return LearnedSystem(size, field, Shooting(RK4()), RK4())
