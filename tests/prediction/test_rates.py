"""Measured rates and the bars of predicted ones: polynomials, single modes, then three networks."""

import math
from itertools import islice

import pytest
import torch
from problems import NETWORKS, network, randn
from torch import Tensor

from eom.dynamics.correction import ByTerms, slopes
from eom.dynamics.field import gradient_flow
from eom.dynamics.observable import norm_squared, rate
from eom.dynamics.runge_kutta import Euler
from eom.prediction.rates import TERMS, Estimate, log_map, prediction_bars


def partial_sums(s: Tensor, terms: int) -> Tensor:
    """The log map of ``terms`` terms without a cut."""
    total, difference = torch.zeros_like(s[0]), s
    for k in range(terms):
        total = total + (-1) ** k / (k + 1) * difference[0]
        difference = difference.diff(dim=0)
    return total


def polynomial_slopes(degree: int) -> tuple[Tensor, float]:
    """Differences of a polynomial in the step index with random coefficients, [TERMS + 1, 1], and q'(0)."""
    c = randn(degree + 1, seed=degree)
    n = torch.arange(TERMS + 2)
    values = sum(c[k] * n**k for k in range(degree + 1))
    return values.diff()[:, None], float(c[1]) if degree else 0.0  # type: ignore


@pytest.mark.parametrize("degree", range(TERMS + 1))
def test_the_log_map_is_exact_on_polynomials_in_the_step_index(degree):
    """Rounding: the differences of degree 5 are of size 1e4, their terms of size 1e3."""
    s, expected = polynomial_slopes(degree)
    value, bar = log_map(s)
    assert value.item() == pytest.approx(expected, abs=1e-11)
    assert bar.item() < 1e-11


def test_the_log_map_of_a_polynomial_beyond_its_terms_has_a_bar():
    s, expected = polynomial_slopes(TERMS + 1)
    value, bar = log_map(s)
    assert bar.item() > 1e-3
    assert abs(value.item() - expected) > 1e-3


def decaying(z: float, steps: int = TERMS + 1) -> Tensor:
    """Slopes of q_n = (1 - z)^n, [steps, 1]; the rate per step is log(1 - z)."""
    return (((1 - z) ** torch.arange(steps + 1, dtype=torch.float64)).diff())[:, None]


@pytest.mark.parametrize("z", [0.001, 0.01, 0.03, 0.1, 0.3, 0.5])
def test_the_bar_of_a_single_modes_rate_is_its_error_within_a_factor_two(z):
    """The rest of the series is z^6 / 6 (1 + 6 z / 7 + ...): 1 to 1.8 times its first term, and rounding below 1e-3."""
    value, bar = log_map(decaying(z))
    error = abs(value.item() - math.log(1 - z))
    assert error <= 2 * bar.item()
    if z >= 0.01:
        assert bar.item() <= 2 * error


@pytest.mark.parametrize("z", [1.5, 1.9])
def test_a_diverging_series_is_cut_at_its_smallest_term(z):
    """A fast mode of size 1e-3 beside a slow one: its terms 1e-3 z^m / m grow, so few are kept and the bar is large."""
    both = decaying(0.01) + 1e-3 * decaying(z)
    value, bar = log_map(both)
    error = abs(value.item() - math.log(0.99))
    assert bar.item() > 1e-3 * z**2 / 4
    assert error <= 2 * bar.item()
    assert abs(partial_sums(both, TERMS).item() - math.log(0.99)) > 2 * error


def test_each_group_is_cut_on_its_own():
    together = log_map(torch.cat([decaying(0.01), decaying(1.9), decaying(0.1)], 1))
    for k, z in enumerate((0.01, 1.9, 0.1)):
        alone = log_map(decaying(z))
        assert together.value[k] == alone.value[0]
        assert together.bar[k] == alone.bar[0]


def test_one_term_that_vanishes_by_accident_does_not_end_the_series():
    """Slopes with second difference zero but a third one of size 1."""
    s = torch.tensor([0.0, 1.0, 2.0, 4.0, 7.0, 11.0])[:, None]  # second differences 0, 1, 1, 1
    assert log_map(s).bar.item() > 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_slopes_that_end_in_no_number_have_no_finite_certainty_beyond_them(bad):
    s = decaying(0.1)
    s[-1] = bad
    value, bar = log_map(s)
    assert math.isfinite(value.item())
    assert abs(value.item() - math.log(0.9)) <= 2 * bar.item()
    s[1:] = bad
    assert log_map(s).bar.item() == math.inf


def test_bars_from_a_reference_are_the_distance_to_it_and_its_own_uncertainty():
    predicted = [torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.25])]
    bars = prediction_bars(predicted, Estimate(torch.tensor([1.25, 3.0]), torch.tensor([0.5, 0.125])))
    assert [e.value.tolist() for e in bars] == [[1.0, 2.0], [1.5, 2.25]]
    assert [e.bar.tolist() for e in bars] == [[0.75, 1.125], [0.75, 0.875]]


def test_bars_without_a_reference_are_what_the_next_order_changes_and_the_last_has_none():
    first, last = prediction_bars([torch.tensor([1.0]), torch.tensor([1.5])], None)
    assert first.bar.item() == 0.5
    assert math.isnan(last.bar.item())


# Networks: errors of predicted rates against their bars

LRS, EVERY, RECORDS = (0.05, 0.1), 8, 12
REFERENCE = 9  # terms of the log map that stands for the truth


def errors_and_bars(name: str, lr: float, decay: float, records: int = RECORDS) -> tuple[Tensor, Tensor]:
    """True errors of the rates of order 0, 1, 2 and their bars, [records, 3, groups] each."""
    objective = network(name, decay=decay)
    field, q, theta = gradient_flow(objective), norm_squared(objective.groups), objective.theta()
    errors, bars = [], []
    for _ in range(records):
        ahead = [s for _, s in islice(slopes(field, Euler(), 0.0, lr, theta), REFERENCE)]
        along = torch.stack([rate(q, lambda t, y, s=s: s)(0.0, theta) for s in ahead])
        truth = partial_sums(along, REFERENCE)
        predicted = [torch.func.jvp(q, (theta,), (f,))[1] for f in ByTerms(field, Euler(), lr, 2).orders(0.0, theta)]
        estimates = prediction_bars(predicted, log_map(along[: TERMS + 1]))
        errors.append(torch.stack([(e.value - truth).abs() for e in estimates]))
        bars.append(torch.stack([e.bar for e in estimates]))
        for s in ahead[:EVERY]:
            theta = theta + lr * s
    return torch.stack(errors), torch.stack(bars)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("lr", LRS)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "transformer")) for n in NETWORKS])
def test_bars_of_predicted_rates_are_honest_and_tight_on_networks(name, lr, decay):
    """Error within twice the bar in 95 %, bar within a factor 3 of the error in 90 % of the groups' records."""
    errors, bars = errors_and_bars(name, lr, decay)
    for order in range(3):
        error, bar = errors[:, order], bars[:, order]
        assert (error <= 2 * bar).double().mean() >= 0.95
        assert (bar <= 3 * error).double().mean() >= 0.90


def test_every_order_predicts_the_rates_of_networks_better_than_the_one_before():
    for name in NETWORKS:
        errors, _ = errors_and_bars(name, 0.05, 0.01, records=6)
        medians = errors.flatten(2).median(2).values.median(0).values
        assert medians[1] < medians[0] / 10
        assert medians[2] < medians[1] / 5
