"""Accurate flows against closed forms and scipy, with errors that are not underestimated."""

import math

import numpy as np
import pytest
import torch
from problems import randn, smooth_field, square
from scipy.integrate import solve_ivp
from torch import Tensor

from eom.dynamics.integrate import flow, flow_with_error
from eom.errors import IntegrationError, SettingError

START = torch.tensor([0.5, 1.0], dtype=torch.float64)
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
RATES = torch.tensor([1.0, 30.0], dtype=torch.float64)
CASES = {
    "z' = z^2 / 3": (lambda t, y: square(y) / 3, lambda t: START / (1 - t * START / 3)),
    "sine": (lambda t, y: torch.sin(y), lambda t: 2 * torch.atan(torch.tan(START / 2) * math.exp(t))),
    "rotation": (lambda t, y: TURN @ y, lambda t: torch.linalg.matrix_exp(t * TURN) @ START),
    "two speeds": (lambda t, y: -RATES * y, lambda t: START * torch.exp(-t * RATES)),
    "clock": (lambda t, y: math.cos(t) * y, lambda t: START * math.exp(math.sin(t))),
}


@pytest.mark.parametrize("method", ["dopri8", "dopri5"])
@pytest.mark.parametrize("t", [0.1, 1.0, 2.7])
@pytest.mark.parametrize("name", CASES)
def test_flows_reach_the_closed_form_to_the_tolerance(name, t, method):
    """Each step may be off by atol, and the errors of up to a hundred steps add up."""
    field, exact = CASES[name]
    for atol in (1e-6, 1e-10):
        found = flow(field, START, t, rtol=0.0, atol=atol, method=method)
        assert (found - exact(t)).norm() < 100 * atol


@pytest.mark.parametrize("name", CASES)
def test_flows_run_backwards(name):
    field, exact = CASES[name]
    found = flow(field, START, -0.05, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(found, exact(-0.05), rtol=0.0, atol=1e-11)


def test_a_flow_over_no_time_stays():
    assert torch.equal(flow(CASES["sine"][0], START, 0.0), START)
    state, error = flow_with_error(CASES["sine"][0], START, 0.0, rtol=0.0, atol=1e-9)
    assert torch.equal(state, START)
    assert not error.any()


@pytest.mark.parametrize("seed", range(3))
def test_flows_agree_with_scipys_dop853(seed):
    f, y = smooth_field(seed), randn(3, seed=seed + 10)
    other = solve_ivp(
        lambda t, x: f(torch.from_numpy(x)).numpy(), (0, 1), y.numpy(), method="DOP853", rtol=1e-12, atol=1e-12
    )
    found = flow(lambda t, x: f(x), y, 1.0, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.numpy(), other.y[:, -1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ["dopri8", "dopri5"])
@pytest.mark.parametrize("atol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("t", [0.01, 0.1, 1.0, 2.7])
@pytest.mark.parametrize("name", CASES)
def test_the_true_error_of_a_flow_is_at_most_three_times_its_estimate(name, t, atol, method):
    """Measured: 2.2 times at most. 1e-13: rounding of a few hundred stages."""
    field, exact = CASES[name]
    state, error = flow_with_error(field, START, t, rtol=0.0, atol=atol, method=method)
    assert (state - exact(t)).norm() <= 3 * error.norm() + 1e-13


def test_the_estimate_of_a_flows_error_falls_with_the_tolerance():
    field, _ = CASES["sine"]
    sizes = [float(flow_with_error(field, START, 2.0, rtol=0.0, atol=a).error.norm()) for a in (1e-4, 1e-7, 1e-10)]
    assert sizes[0] > 30 * sizes[1] > 900 * sizes[2]


def test_a_blow_up_on_the_way_is_an_error():
    """y' = y^2 from 1 has its pole at t = 1."""
    with pytest.raises(IntegrationError, match="Shorten the time"):
        flow(lambda t, y: square(y), torch.ones(1), 1.5)


def test_a_field_that_is_not_finite_is_an_error_with_its_time():
    def field(t: float, y: Tensor) -> Tensor:
        return y * (math.nan if t > 0.5 else 1.0)

    with pytest.raises(IntegrationError, match=r"not finite at time 0\.5.* of 1"):
        flow(field, START, 1.0)


@pytest.mark.parametrize(
    "settings",
    [{"t": math.nan}, {"t": math.inf}, {"t": 1.0, "rtol": -1.0}, {"t": 1.0, "rtol": 0.0, "atol": 0.0}],
)
def test_a_time_or_tolerance_without_meaning_is_refused(settings):
    with pytest.raises(SettingError, match="expected a finite time, one positive tolerance"):
        flow(CASES["sine"][0], START, **settings)


def test_an_unknown_method_is_refused():
    with pytest.raises(SettingError, match='expected "dopri8" or "dopri5"'):
        flow(CASES["sine"][0], START, 1.0, method="euler")


def test_a_flow_leaves_its_start_alone_and_takes_no_gradients_along():
    y = START.clone().requires_grad_()
    found = flow(CASES["sine"][0], y, 1.0)
    assert torch.equal(y, START)
    assert not found.requires_grad
