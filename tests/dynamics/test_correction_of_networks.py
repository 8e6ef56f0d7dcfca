"""Measured orders of the corrected flow of gradient descent on three networks."""

import pytest
import torch
from problems import NETWORKS, cross_entropy, network, seeded, tanh_mlp
from torch import Tensor, nn

from eom.calculus.potentials import Function
from eom.dynamics.correction import corrected
from eom.dynamics.field import GradientFlow, VectorField, gradient_flow, scaled
from eom.dynamics.integrate import flow
from eom.dynamics.runge_kutta import RK4, Euler, Heun, RungeKutta
from eom.dynamics.stepper import end
from eom.objective import Objective
from eom.testing import observed_order

LRS = [0.05, 0.025, 0.0125]
TIME = 0.25
ROUTES = [("terms", 0), ("terms", 1), ("terms", 2), ("log-map", 0), ("log-map", 1), ("log-map", 2), ("log-map", 3)]
CASES = [(name, method, order) for name in NETWORKS for method, order in ROUTES]
LONG = [("cnn", "terms", 2), *(("transformer", *route) for route in [("terms", 2), ("log-map", 2), ("log-map", 3)])]


def measured_order(
    field: VectorField, stepper: RungeKutta, theta: Tensor, order: int, method: str, time: float | None, lrs=LRS
) -> float:
    """Slope of |flow - march| over ``time``, or over one step, against the learning rate.

    The flow is integrated a thousand times more finely than what the order leaves out at the smallest rate.
    """
    atol = max(1e-9 * 1e-2**order, 1e-14)

    def error(lr: float) -> float:
        steps = round(time / lr) if time else 1
        flowed = flow(corrected(field, stepper, lr, order, method), theta, steps * lr, rtol=0.0, atol=atol)
        return float((flowed - end(field, stepper, theta, h=lr, steps=steps)).norm())

    return observed_order(error, lrs)


@pytest.mark.parametrize(("name", "method", "order"), CASES)
def test_one_step_of_descent_differs_from_the_corrected_flow_by_lr_to_the_order_plus_two(name, method, order):
    objective = network(name)
    slope = measured_order(gradient_flow(objective), Euler(), objective.theta(), order, method, None)
    assert slope == pytest.approx(order + 2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "method", "order"), [pytest.param(*c, marks=pytest.mark.slow) if c in LONG else c for c in CASES]
)
def test_descent_over_a_fixed_time_differs_from_the_corrected_flow_by_lr_to_the_order_plus_one(name, method, order):
    objective = network(name)
    slope = measured_order(gradient_flow(objective), Euler(), objective.theta(), order, method, TIME)
    assert slope == pytest.approx(order + 1, abs=0.05)


class Fused(Function):
    """A potential whose third derivative goes through torch's fused operations."""

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        y = theta.detach().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.f(y), y, create_graph=True)
            (hv,) = torch.autograd.grad(g, y, v, create_graph=True)
            return torch.autograd.grad(hv, y, u)[0]


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_both_counter_terms_are_right_through_fused_norms(norm):
    """xi_0 and xi_1 together leave O(lr^4) in one step; with torch's own third derivatives it is O(lr^3)."""
    layers = lambda: nn.Sequential(nn.Linear(4, 6), norm(6), nn.Tanh(), nn.Linear(6, 3))  # noqa: E731
    objective = Objective(seeded(layers), cross_entropy, tanh_mlp()[1])
    theta, lrs = objective.theta(), [LRS[-1] / 2, LRS[-1] / 4, LRS[-1] / 8]  # the curvature of such nets is large
    slope = measured_order(gradient_flow(objective), Euler(), theta, 2, "terms", None, lrs)
    assert slope == pytest.approx(4, abs=0.05)
    plain = Fused(lambda y: objective.mean_loss.over(lambda f: (f(y),))[0])
    slope = measured_order(GradientFlow(plain), Euler(), theta, 2, "terms", None, lrs)
    assert slope == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_weight_decay_and_several_learning_rates_are_corrected_to_the_same_order(name, order):
    """Decay .1 on the matrices only; learning rates 1, 1/2, 1/3, ... from tensor to tensor."""
    objective = network(name)
    decay = {k: 0.1 for k, p in objective.model.named_parameters() if p.ndim > 1}
    objective = network(name, decay=decay)
    weights = torch.cat([torch.full((n,), 1 / (1 + i % 3)) for i, n in enumerate(objective.layout.sizes)])
    field = scaled(gradient_flow(objective), weights)
    slope = measured_order(field, Euler(), objective.theta(), order, "terms" if order < 2 else "log-map", None)
    assert slope == pytest.approx(order + 2, abs=0.05)


@pytest.mark.parametrize(
    ("stepper", "order", "method", "slope"),
    [
        (Heun(), 0, "terms", 3),
        (Heun(), 1, "terms", 3),
        (Heun(), 2, "terms", 4),
        (Heun(), 2, "log-map", 4),
        (Heun(), 3, "log-map", 5),
        (RK4(), 2, "terms", 5),
        (RK4(), 3, "log-map", 5),
    ],
    ids=str,
)
def test_heun_and_rk4_on_a_network_keep_powers_of_lr_up_to_the_order(stepper, order, method, slope):
    """By the log map the slopes approach the order in proportion to lr (4.94, 4.95, 4.98): smaller ones there."""
    objective, lrs = network("mlp"), LRS if method == "terms" else [0.0125, 0.00625]
    found = measured_order(gradient_flow(objective), stepper, objective.theta(), order, method, None, lrs)
    assert found == pytest.approx(slope, abs=0.05)
