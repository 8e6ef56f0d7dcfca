"""The checks offered to users measure what they say."""

import math

import pytest
import torch
from problems import network
from torch import nn

import eom
from eom.errors import SettingError
from eom.objective import Objective
from eom.testing import check_derivatives, observed_order


@pytest.mark.parametrize("order", [0.5, 1, 2, 3.7, 8])
def test_the_observed_order_of_a_power_is_its_exponent(order):
    assert observed_order(lambda h: 7 * h**order, [0.1, 0.05, 0.01]) == pytest.approx(order, rel=1e-12)


def test_the_observed_order_is_a_least_squares_slope_whatever_the_order_of_the_steps():
    """Errors 1, 2, 2 at log2 h = 0, 1, 2: the slope is 1/2."""
    errors = {1.0: 1.0, 2.0: 2.0, 4.0: 2.0}
    for hs in ([1.0, 2.0, 4.0], [4.0, 1.0, 2.0]):
        assert observed_order(errors.__getitem__, hs) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("hs", [[], [0.1], [0.1, 0.1], [0.1, 0.0], [0.1, -0.1]], ids=str)
def test_an_order_needs_two_different_positive_steps(hs):
    with pytest.raises(SettingError, match="expected at least two different positive steps"):
        observed_order(lambda h: h, hs)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_errors_that_have_no_logarithm_have_no_order(value):
    with pytest.raises(SettingError, match="an exact zero has no order"):
        observed_order(lambda h: value if h == 0.1 else h, [0.2, 0.1])


def test_errors_that_do_not_fall_have_no_order():
    with pytest.raises(SettingError, match=r"do not fall with h.*rounding, or a bug"):
        observed_order(lambda h: 1e-16 / h, [0.2, 0.1])


def test_check_derivatives_passes_a_right_model_and_names_what_is_wrong_with_another():
    assert check_derivatives(network("cnn"), order=2).third
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.LayerNorm(3)))
    objective = Objective(model, lambda m, b: m(b).square().mean(), torch.randn(8, 3))
    with pytest.raises(AssertionError, match=r"derivatives are wrong on this model:\nT\(v, v\) against differences"):
        check_derivatives(objective, order=2)


def test_testing_is_reached_by_its_name():
    assert eom.testing.observed_order is observed_order
