"""Stochastic thermodynamics: laws of single paths against closed forms, within their intervals."""

import math

import pytest
import torch

from eom.dynamics.brownian import Brownian
from eom.dynamics.noise import Additive
from eom.dynamics.sde import Sde
from eom.dynamics.stochastic_steppers import SRA1
from eom.errors import NoiseError, SettingError
from eom.stochastic.paths import ensemble
from eom.stochastic.thermodynamics import crooks, drive, entropy_of_paths, entropy_production, jarzynski, ou_law

A = torch.tensor([[1.0, 0.6], [-0.4, 0.8]], dtype=torch.float64)
D = torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=torch.float64)


def trap(x, stiffness):
    return stiffness * x.square().sum(-1) / 2


def moved(x, centre):
    return (x - centre).square().sum(-1)


def test_the_stationary_law_balances_drift_and_noise():
    s = ou_law(A, D)
    torch.testing.assert_close(A @ s + s @ A.T, 2 * D)


def test_entropy_is_produced_where_detailed_balance_is_broken_only():
    assert entropy_production(D @ torch.diag(torch.tensor([2.0, 1.0])), D) == pytest.approx(0, abs=1e-12)
    assert entropy_production(A, D) > 0.1
    spin = torch.tensor([[1.0, -0.7], [0.7, 1.0]])  # D = 1: the closed form 2 omega^2 / gamma
    assert entropy_production(spin, torch.eye(2)) == pytest.approx(2 * 0.7**2, rel=1e-12)


def test_paths_produce_the_entropy_of_the_closed_form():
    """95 % intervals: at least 16 of 20 hold it, as happens but once in three thousand times otherwise."""
    paths, h, exact = 400, 0.01, entropy_production(A, D)
    generator = torch.Generator().manual_seed(4)
    sde = Sde(lambda t, x: -x @ A.T, Additive(torch.linalg.cholesky(2 * D)))
    held = 0
    for seed in range(20):
        y = torch.randn(paths, 2, generator=generator) @ torch.linalg.cholesky(ou_law(A, D)).T
        found = entropy_of_paths(A, D, ensemble(sde, SRA1(Brownian(seed)), y, h=h, steps=200, every=1).y, h)
        held += abs(found.value - exact) < found.bar
    assert held >= 16


@pytest.mark.parametrize("h", [0.02, 0.5])
def test_jarzynski_and_crooks_on_a_trap_that_stiffens(h):
    """dF = T log(4) / 2, at any step, as the motion keeps each law exactly; the mean work is larger."""
    protocol, exact, paths = torch.linspace(1, 4, 31), math.log(4) / 2, 20000
    start = torch.randn(paths, 1, generator=torch.Generator().manual_seed(1))
    there = drive(trap, start, protocol, h=h, path=Brownian(1))
    back = drive(trap, torch.randn(paths, 1) / 2, protocol.flip(0), h=h, path=Brownian(2))
    for found in (jarzynski(there.work), crooks(there.work, back.work)):
        assert abs(found.value - exact) < 1.5 * found.bar
        assert found.bar < 0.05
    assert float(there.work.mean()) > exact + 3 * float(there.work.std()) / paths**0.5
    assert crooks(there.work, back.work).bar < jarzynski(there.work).bar


def test_a_trap_that_is_dragged_changes_no_free_energy():
    """Jarzynski's mean is 1 at temperature 1/2, and Crooks's symmetry holds: P(W) / P(-W) = e^{W / T}."""
    paths, temperature = 20000, 0.5
    start = torch.randn(paths, 1, generator=torch.Generator().manual_seed(2)) * math.sqrt(temperature / 2)
    found = drive(moved, start, torch.linspace(0, 1, 21), h=0.05, temperature=temperature, path=Brownian(5))
    estimate = jarzynski(found.work, temperature)
    assert abs(estimate.value) < 1.5 * estimate.bar
    w = found.work
    up, down = float(((w > 0.2) & (w < 0.3)).sum()), float(((w < -0.2) & (w > -0.3)).sum())
    assert math.log(up / down) == pytest.approx(0.25 / temperature, abs=4 * math.sqrt(1 / up + 1 / down))


def test_energy_is_conserved_along_each_path():
    """Work and heat add up to the change of U."""
    y = torch.randn(50, 2)
    found = drive(trap, y, torch.linspace(1, 3, 11), h=0.1)
    torch.testing.assert_close(found.work + found.heat, trap(found.end, 3.0) - trap(y, 1.0))


@pytest.mark.parametrize(
    ("act", "error", "complaint"),
    [
        (
            lambda: entropy_production(A, torch.diag(torch.tensor([1.0, 0.0]))),
            NoiseError,
            "expected full rank: pass drift and diffusion on the subspace",
        ),
        (lambda: entropy_production(A, D + torch.tensor([[0.0, 0.1], [0.0, 0.0]])), NoiseError, "is not symmetric"),
        (lambda: entropy_production(-A, D), SettingError, "no stationary law holds the process"),
        (lambda: drive(trap, torch.zeros(3), torch.ones(4), h=0.1), SettingError, r"the states \[3\], expected"),
        (lambda: drive(trap, torch.zeros(3, 1), torch.ones(1), h=0.1), SettingError, r"the protocol is \[1\]"),
    ],
)
def test_bad_input_is_named(act, error, complaint):
    with pytest.raises(error, match=complaint):
        act()
