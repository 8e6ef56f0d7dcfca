"""Displacements: where the flows of order 0, 1, 2 arrive, how far that is off, and what their bars say."""

import pytest
import torch
from problems import NETWORKS, network, randn, symmetric
from torch import Tensor

from eom.dynamics.field import gradient_flow
from eom.dynamics.observable import GroupSum
from eom.dynamics.runge_kutta import Euler
from eom.dynamics.stepper import end
from eom.objective import Objective
from eom.prediction.displacement import Leg, flows
from eom.testing import observed_order

A = symmetric([2.0, 1.0, 0.3, 0.0])


def bowl_flow():
    return gradient_flow(lambda y: y @ A @ y / 2)


def exact(order: int, lr: float, time: float, y: Tensor) -> Tensor:
    """exp(-t sum_{m <= k} lr^m A^{m+1} / (m + 1)) y."""
    power = torch.linalg.matrix_power
    series = sum((lr**m * power(A, m + 1) / (m + 1) for m in range(order + 1)), start=torch.zeros_like(A))
    return torch.linalg.matrix_exp(-time * series) @ y


def test_flows_on_a_quadratic_reach_the_closed_form_to_their_own_error():
    y, leg = randn(4), Leg(0.1, 10)
    ends = flows(bowl_flow(), y, [leg], 2)
    assert len(ends) == 4
    for k, (state, error) in enumerate(ends[:3]):
        off, own = (state - exact(k, leg.lr, 1.0, y)).norm(), error.norm()
        left_out = (exact(k + 1, leg.lr, 1.0, y) - exact(k, leg.lr, 1.0, y)).norm()
        assert off <= 3 * own + 1e-14
        assert own <= 0.3 * left_out  # three steps, each loose by a tenth of what the order itself leaves out
    assert (ends[3].state - exact(3, leg.lr, 1.0, y)).norm() < 0.3 * (ends[3].state - ends[2].state).norm()
    assert ends[3].error.isnan().all()


def test_legs_of_different_learning_rates_follow_each_other():
    y, legs = randn(4), [Leg(0.1, 5), Leg(0.02, 20)]
    ends = flows(bowl_flow(), y, legs, 1)
    for k in (0, 1):
        expected = exact(k, 0.02, 0.4, exact(k, 0.1, 0.5, y))
        assert (ends[k].state - expected).norm() <= 3 * ends[k].error.norm() + 1e-14
    there = end(bowl_flow(), Euler(), end(bowl_flow(), Euler(), y, h=0.1, steps=5), h=0.02, steps=20)
    assert (ends[1].state - there).norm() < (ends[0].state - there).norm() / 10


def test_a_flow_too_stiff_for_the_solver_is_given_up_and_the_others_stand():
    """lr lambda = 3: the series of order 2 has a mode of rate -lambda (1 + 3 / 2 + 9 / 3), that of order 0 -lambda."""
    y, matrix = randn(2), torch.tensor([30.0, 1.0]).diag()
    ends = flows(gradient_flow(lambda x: x @ matrix @ x / 2), y, [Leg(0.1, 30)], 2)
    assert ends[2].state.isnan().all()
    assert ends[2].error.isnan().all()
    assert ends[0].state.isfinite().all()


STEPS, RECORDS = 8, 4


def errors_and_bars(name: str, lr: float) -> tuple[Tensor, Tensor]:
    """Distances of the flows of order 0, 1, 2 from the run, and their bars, [records, 3, groups] each."""
    objective: Objective = network(name, decay=0.01)
    field, total, theta = gradient_flow(objective), GroupSum(objective.groups), objective.theta()
    errors, bars = [], []

    def size(x: Tensor) -> Tensor:
        return total.inner(x, x).sqrt()

    for _ in range(RECORDS):
        there = end(field, Euler(), theta, h=lr, steps=STEPS)
        ends = flows(field, theta, [Leg(lr, STEPS)], 2)
        errors.append(torch.stack([size(this.state - there) for this in ends[:3]]))
        bars.append(torch.stack([size(ends[k + 1].state - ends[k].state) + size(ends[k].error) for k in range(3)]))
        theta = there
    return torch.stack(errors), torch.stack(bars)


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        pytest.param("mlp", 0.05, marks=pytest.mark.slow),
        ("mlp", 0.1),
        *(pytest.param(name, 0.1, marks=pytest.mark.slow) for name in ("cnn", "transformer")),
    ],
)
def test_bars_of_positions_are_honest_and_tight_on_networks(name, lr):
    """Error within twice the bar in 95 %, bar within a factor 3 of the error in 90 % of the groups' records."""
    errors, bars = errors_and_bars(name, lr)
    for order in range(3):
        error, bar = errors[:, order], bars[:, order]
        assert (error <= 2 * bar).double().mean() >= 0.95
        assert (bar <= 3 * error).double().mean() >= 0.90


@pytest.mark.parametrize("name", [n if n == "mlp" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_positions_over_a_fixed_time_are_off_by_lr_to_the_order_plus_one(name):
    """Within .1: the flows are integrated to a hundredth of what they leave out only."""
    objective = network(name)
    field, theta, time = gradient_flow(objective), objective.theta(), 0.2
    found: dict[float, list[float]] = {}
    for lr in (0.05, 0.025, 0.0125):
        there = end(field, Euler(), theta, h=lr, steps=round(time / lr))
        found[lr] = [float((f.state - there).norm()) for f in flows(field, theta, [Leg(lr, round(time / lr))], 2)]
    for order in range(3):
        slope = observed_order(lambda lr, k=order: found[lr][k], list(found))
        assert slope == pytest.approx(order + 1, abs=0.1)
