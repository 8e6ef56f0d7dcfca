"""Exact moments are of linear, autonomous problems only, and nodes stand for all that a stepper draws."""

import math

import pytest
import torch

from eom.dynamics.brownian import Place
from eom.dynamics.moments import evolved, marched, moments_at
from eom.dynamics.noise import Additive, Diagonal, General
from eom.dynamics.quadrature import gaussian_nodes
from eom.dynamics.sde import Sde
from eom.dynamics.stochastic_steppers import SRA1, EulerMaruyama, Platen
from eom.errors import SettingError


@pytest.mark.parametrize("start", [0.0, 1.0, 1.5, 2.5])
def test_a_nonlinear_problem_is_refused_wherever_it_begins(start):
    cubic = Sde(lambda t, y: -(y**3), Diagonal(lambda t, y: 0.3 * y**2))
    with pytest.raises(SettingError, match="this one is not affine in the state"):
        evolved(cubic, moments_at(torch.tensor([start])), 1.0)


@pytest.mark.parametrize(
    "sde",
    [Sde(lambda t, y: -(1 + t) * y, Additive(0.1)), Sde(lambda t, y: -y, Diagonal(lambda t, y: math.cos(t) * y))],
)
def test_a_problem_that_depends_on_time_is_refused(sde):
    with pytest.raises(SettingError, match="this one depends on time"):
        evolved(sde, moments_at(torch.tensor([1.0])), 1.0)


def test_geometric_brownian_motion_has_its_moments():
    sde = Sde(lambda t, y: 0.3 * y, Diagonal(lambda t, y: 0.5 * y))
    found = evolved(sde, moments_at(torch.tensor([2.0])), 1.5)
    assert float(found.mean) == pytest.approx(2 * math.exp(0.45), rel=1e-12)
    assert float(found.second) == pytest.approx(4 * math.exp(0.9 + 0.375), rel=1e-12)


def test_a_start_that_is_no_moments_is_named():
    with pytest.raises(SettingError, match=r"start is a Tensor, expected Moments, such as moments_at\(y\)"):
        evolved(Sde(lambda t, y: -y, Additive(0.1)), torch.ones(1), 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stepper", "complaint"),
    [
        (SRA1(gaussian_nodes(2, 4)), r"takes areas of the path: make the nodes with gaussian_nodes\(areas=True\)"),
        (Platen(gaussian_nodes(2, 4)), r"takes 1 signs: make the nodes with gaussian_nodes\(flips=1\)"),
        (EulerMaruyama(gaussian_nodes(3, 4)), "the nodes are of 3 Brownian motions, and the noise has 2"),
    ],
)
def test_nodes_that_hold_too_little_are_refused(stepper, complaint):
    root = torch.tensor([[0.3, 0.1], [0.0, 0.4]])
    noise = Additive(root) if isinstance(stepper, SRA1) else General(lambda t, y: root.expand(*y.shape, 2), 2)
    sde, weights = Sde(lambda t, y: -y, noise), stepper.path.weights  # type: ignore[attr-defined] - of nodes
    with pytest.raises(SettingError, match=complaint):
        marched(lambda y: stepper.step(sde, 0.0, 0.1, y, Place())[0], weights, moments_at(torch.ones(2)), 3)
