"""Langevin steppers: stationary laws exactly known, and the powers of h in their bias."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eom.dynamics import moments
from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.order import ladder
from eom.dynamics.quadrature import gaussian_nodes
from eom.dynamics.stepper import end
from eom.dynamics.stochastic_steppers import EulerMaruyama, StochasticHeun
from eom.dynamics.transfer import Interval
from eom.errors import SettingError
from eom.stochastic.bias import exact_mean, overdamped_mean, splitting_mean
from eom.stochastic.density import Density
from eom.stochastic.diagnostics import mixing
from eom.stochastic.langevin import (
    BAOAB,
    MALA,
    OBABO,
    SGHMC,
    LeimkuhlerMatthews,
    Splitting,
    Underdamped,
    overdamped,
)
from eom.stochastic.paths import ensemble

GAUSSIAN = Density(lambda x: (x**2 / 2).sum(-1))
DOUBLE_WELL = Density(lambda x: (x**4 / 4 - x**2 / 2).sum(-1))
LINE = Interval(120, -4.0, 4.0)


def cosine(x: Tensor) -> Tensor:
    return torch.cos(2 * x)


def variance(step, nodes) -> Tensor:
    """Stationary covariance of a linear scheme, whose step takes [q, n]."""
    start = moments.moments_at(torch.zeros(step.size))
    return moments.marched(step, nodes.weights, start, 600).covariance


class Step:
    """One step on the Gaussian, for states of ``size`` numbers."""

    def __init__(self, stepper, field, h: float, size: int):
        self.stepper, self.field, self.h, self.size = stepper, field, h, size

    def __call__(self, y: Tensor) -> Tensor:
        return self.stepper.step(self.field, 0.0, self.h, y, self.stepper.init(y))[0]


@pytest.mark.parametrize("h", [0.1, 0.4])
def test_euler_maruyama_on_a_gaussian_is_too_wide_as_its_formula_says(h):
    nodes = gaussian_nodes(1, 3)
    found = variance(Step(EulerMaruyama(nodes), overdamped(GAUSSIAN), h, 1), nodes)
    assert float(found) == pytest.approx(1 / (1 - h / 2), rel=1e-12)


@pytest.mark.parametrize("h", [0.1, 0.4])
def test_splittings_on_a_gaussian(h):
    """BAOAB and ABOBA are exact in position, OBABO and BAOA in momentum; variances by their closed forms."""
    wide, narrow = 1 / (1 - h * h / 4), 1 - h * h / 4
    for scheme, expected in {"BAOAB": (1, narrow), "ABOBA": (1, wide), "OBABO": (wide, 1), "BAOA": (1, 1)}.items():
        nodes = gaussian_nodes(scheme.count("O"), 3)
        found = variance(Step(Splitting(scheme, nodes), Underdamped(GAUSSIAN, 0.7), h, 2), nodes)
        assert found.diagonal().tolist() == pytest.approx(expected, rel=1e-10), scheme


def test_leimkuhler_matthews_on_a_gaussian_is_exact():
    """Over (y, dW_k): the step is linear, and its half of the old noise is what makes it exact."""
    h, line = 0.4, Interval(60, -9.0, 9.0)
    assert overdamped_mean(LeimkuhlerMatthews(), GAUSSIAN, h, lambda x: x**2, line) == pytest.approx(1, abs=1e-9)
    assert overdamped_mean(EulerMaruyama(), GAUSSIAN, h, lambda x: x**2, line) == pytest.approx(1.25, abs=1e-9)


@pytest.mark.parametrize(
    ("stepper", "order"),
    [(EulerMaruyama(), 1), (StochasticHeun(), 2), (LeimkuhlerMatthews(), 2)],
    ids=lambda x: str(x)[:8],
)
def test_order_of_the_bias_of_overdamped_steppers_on_a_double_well(stepper, order):
    exact = exact_mean(DOUBLE_WELL, cosine, LINE)
    steps = [0.1 / 2**k for k in range(6)]
    found = ladder(lambda h: overdamped_mean(stepper, DOUBLE_WELL, h, cosine, LINE) - exact, steps)
    assert found.order == pytest.approx(order, abs=0.05), str(found)


def test_leimkuhler_matthews_has_a_hundredth_of_the_bias_at_equal_gradients():
    exact = exact_mean(DOUBLE_WELL, cosine, LINE)
    off = [
        abs(overdamped_mean(stepper, DOUBLE_WELL, 0.0125, cosine, LINE) - exact)
        for stepper in (EulerMaruyama(), LeimkuhlerMatthews())
    ]
    assert off[0] > 100 * off[1]


@pytest.mark.parametrize("stepper", [BAOAB(), OBABO()], ids=["BAOAB", "OBABO"])
def test_order_of_the_bias_of_splittings_on_a_double_well(stepper):
    exact, line = exact_mean(DOUBLE_WELL, cosine, LINE), Interval(72, -4.0, 4.0)
    found = ladder(
        lambda h: splitting_mean(stepper, DOUBLE_WELL, h, cosine, line) - exact, [0.4, 0.2, 0.1, 0.05, 0.025]
    )
    assert found.order == pytest.approx(2, abs=0.05), str(found)


def test_the_grid_of_positions_and_momenta_gives_the_known_variance():
    found = splitting_mean(OBABO(), GAUSSIAN, 0.4, lambda x: x**2, Interval(60, -9.0, 9.0))
    assert found == pytest.approx(1 / (1 - 0.04), abs=1e-8)


@pytest.mark.parametrize("h", [0.05, 0.8])
def test_mala_leaves_the_density_alone_at_any_step(h):
    """Started in the law, it stays: within five standard errors, where Euler-Maruyama would be far off."""
    y = torch.randn(20000, 1, generator=torch.Generator().manual_seed(1))
    after = end(GAUSSIAN, MALA(Brownian(2)), y, h=h, steps=8)
    for power, expected, spread in ((2, 1.0, 2**0.5), (4, 3.0, 96**0.5)):
        assert abs(float((after**power).mean()) - expected) < 5 * spread / 20000**0.5
    if h > 0.5:
        ula = end(overdamped(GAUSSIAN), EulerMaruyama(Brownian(2)), y, h=h, steps=8)
        assert float((ula**2).mean()) > 1.3


def test_mala_counts_what_it_takes():
    stepper, y = MALA(), torch.zeros(50, 3)
    carry = stepper.init(y)
    for _ in range(20):
        y, carry = stepper.step(GAUSSIAN, 0.0, 0.5, y, carry)
    rate = float(torch.as_tensor(carry.taken).mean()) / carry.made
    assert carry.made == 20
    assert 0.5 < rate < 1


def test_sghmc_tends_to_the_density_as_its_step_falls():
    for h in (0.2, 0.05):
        nodes = gaussian_nodes(1, 3)
        found = variance(Step(SGHMC(nodes), Underdamped(GAUSSIAN), h, 2), nodes)
        assert float(found[0, 0]) == pytest.approx(1, abs=0.3 * h)


def test_one_force_is_computed_for_a_step():
    calls = []

    def force(t: float, q: Tensor) -> Tensor:
        calls.append(1)
        return -q

    for scheme in ("BAOAB", "OBABO", "BAOA"):
        calls.clear()
        end(Underdamped(force), Splitting(scheme), torch.zeros(2, 2), h=0.1, steps=10)
        assert len(calls) == (10 if scheme == "BAOA" else 11)  # one more at the start


def test_a_temperature_scales_the_law():
    cold = replace(GAUSSIAN, temperature=0.25)
    y = torch.randn(20000, 1) / 2
    for field, stepper in ((cold, MALA()), (overdamped(GAUSSIAN, 0.25), LeimkuhlerMatthews())):
        assert float(end(field, stepper, y, h=0.1, steps=20).var()) == pytest.approx(0.25, abs=5 * 0.25 * 0.01)


def test_the_temperature_is_that_of_the_density_unless_another_is_given():
    cold = replace(GAUSSIAN, temperature=0.09)
    assert overdamped(cold).noise == overdamped(GAUSSIAN, 0.09).noise
    assert overdamped(cold, 4.0).noise == overdamped(GAUSSIAN, 4.0).noise
    assert (Underdamped(cold).bath_temperature, Underdamped(cold, temperature=2.0).bath_temperature) == (0.09, 2.0)
    assert (Underdamped(lambda t, q: -q).bath_temperature, Underdamped(GAUSSIAN).bath_temperature) == (1.0, 1.0)


def test_mixing_knows_independent_from_stuck_chains():
    good = torch.randn(500, 4, 2)
    found = mixing(good)
    assert found.rhat.max() < 1.02
    assert found.ess.min() > 1000
    stuck = good + 3 * torch.arange(4.0)[:, None]
    assert mixing(stuck).rhat.min() > 1.5
    slow = good.cumsum(0)
    assert mixing(slow).ess.max() < 50


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda: overdamped(GAUSSIAN, -1.0), "temperature is -1.0, expected a positive number"),
        (lambda: Underdamped(GAUSSIAN, friction=0.0), "friction is 0.0"),
        (lambda: Splitting("BAXAB"), "scheme is 'BAXAB', expected letters A, B and O"),
        (lambda: Splitting(""), "scheme is ''"),
        (lambda: end(GAUSSIAN, BAOAB(), torch.zeros(2), h=0.1, steps=1), "given a Density, expected Underdamped"),
        (lambda: end(Underdamped(GAUSSIAN), BAOAB(), torch.zeros(3), h=0.1, steps=1), "has 3 entries"),
        (lambda: end(overdamped(GAUSSIAN), MALA(), torch.zeros(2), h=0.1, steps=1), "MALA weighs its steps by U"),
        (lambda: mixing(torch.zeros(3, 2, 1)), r"draws are \[3, 2, 1\], expected"),
        (lambda: mixing(torch.full((9, 2, 1), torch.nan)), "hold NaN"),
        (lambda: ensemble(GAUSSIAN, MALA(), torch.zeros(2), h=-1.0, steps=3), "h is -1.0"),
    ],
)
def test_bad_input_is_named(act, complaint):
    with pytest.raises(SettingError, match=complaint):
        act()


def test_leimkuhler_matthews_takes_additive_noise_only():
    from eom.dynamics.noise import Scalar
    from eom.dynamics.sde import Sde

    sde = Sde(GAUSSIAN, Scalar(lambda t, y: y))
    with pytest.raises(SettingError, match="is for additive noise, and was given Scalar"):
        LeimkuhlerMatthews().step(sde, 0.0, 0.1, torch.zeros(2), (None, Place()))
