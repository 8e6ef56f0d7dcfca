"""What a comparison with differences can tell: wrong formulas, kinks, rounding."""

import pytest
import torch
from problems import randn
from torch import Tensor

from eom.calculus.checks import Agreement, agreements, asymmetry, direction, kinks, rounds_to_single, scale, worst

EPS = torch.finfo(torch.float64).eps
LIMIT = 1e-4
N = 12


def compare(f, derivative, y: Tensor, v: Tensor, **given) -> Agreement:
    return worst(agreements(f, y, v, derivative, at=f(y), limit=LIMIT, eps=EPS, **given))


@pytest.mark.parametrize(("factor", "right"), [(1, True), (1 + 3 * LIMIT, False), (1 - 3 * LIMIT, False), (-1, False)])
def test_a_derivative_is_right_to_the_limit(factor, right):
    y, v = randn(N), randn(N, seed=1)
    found = compare(torch.sin, factor * y.cos() * v, y, v)
    assert found.holds is right
    floor = 100 * EPS**0.5 / LIMIT  # rounding over the shorter step
    assert found.error == pytest.approx(abs(factor - 1), rel=floor, abs=1e-8)


@pytest.mark.parametrize("block", [0, 3])
def test_a_small_block_weighs_as_much_as_a_large_one(block):
    y, v = randn(N), randn(N, seed=1)
    size = torch.cat([torch.full((3,), 1e-3), torch.ones(N - 3)])
    derivative = size * y.cos() * v
    derivative[block] *= 1.01
    whole = compare(lambda y: size * y.sin(), derivative, y, v)
    parts = compare(lambda y: size * y.sin(), derivative, y, v, sizes=[3, N - 3])
    assert whole.holds is (block == 0)
    assert not parts.holds


def ramp(at: float):
    """The gradient of a function with a kink: it jumps by 1 where the first component reaches ``at``."""
    return lambda y: y.sin() + (y > at) * torch.eye(N)[0]


@pytest.mark.parametrize("distance", [1e-10, -1e-10, 1e-7, -1e-7])
def test_a_right_derivative_beside_a_kink_lies_between_the_differences(distance):
    """The first kink is nearer than either step, the second is between them; no difference sees the derivative."""
    y, v = randn(N), torch.ones(N) / N**0.5
    f = ramp(float(y[0]) + distance)
    found = compare(f, y.cos() * v, y, v)
    assert found.holds
    if abs(distance) < 1e-8:
        assert found.error > LIMIT
    assert not compare(f, 1.01 * y.cos() * v, y, v, sizes=[1, N - 1]).holds


def test_a_wrong_derivative_beside_a_kink_is_found_over_the_step_that_does_not_cross_it():
    y, v = randn(N), torch.ones(N) / N**0.5
    found = compare(ramp(float(y[0]) + 1e-7), 1.01 * y.cos() * v, y, v)
    assert not found.holds
    assert found.error == pytest.approx(0.01, rel=0.02)


def test_many_kinks_on_both_sides_are_seen_by_the_step_that_crosses_none():
    """Stairs of slope 1 between y - 1 and y + 1, whose steps are longer than the short step."""
    y, v = randn(N), torch.ones(N)
    f = lambda z: z + 1e-6 * ((z - y) / 1e-6).round()  # noqa: E731
    assert compare(f, v, y, v).holds
    assert not compare(f, 2 * v, y, v).holds


def test_what_rounding_hides_is_not_called_wrong():
    y, v = randn(N), randn(N, seed=1)
    assert compare(lambda y: y.sin() + 1e10, 1.01 * y.cos() * v, y, v).holds
    assert not compare(lambda y: y.sin() + 1e2, 1.01 * y.cos() * v, y, v).holds


@pytest.mark.parametrize("seed", range(20))
def test_rounding_alone_calls_no_single_entry_wrong(seed):
    y, v = randn(N, seed=seed), randn(N, seed=seed + 99)
    assert compare(lambda y: y.sin() + 1e6, y.cos() * v, y, v, sizes=[1] * N).holds


def test_what_is_no_number_is_wrong_and_a_difference_that_is_none_says_nothing():
    y, v = randn(N), torch.ones(N) / N**0.5
    right = y.cos() * v
    assert not compare(torch.sin, right * torch.nan, y, v).holds
    limited = lambda z: torch.where((z - y).abs() < 1e-6, z.sin(), torch.nan)  # noqa: E731
    assert compare(limited, right, y, v).holds
    assert not compare(limited, 1.01 * right, y, v).holds
    for block in (0, N - 1):
        only_here = lambda z: torch.where((z == y) | (torch.arange(N) != block), z.sin(), torch.nan)  # noqa: E731, B023
        assert not compare(only_here, right, y, v, sizes=[1] * N).holds


def test_a_direction_moves_every_block_by_the_same_share():
    y = torch.cat([1e-3 * randn(50), 1e3 * randn(50, seed=1), torch.zeros(50)])
    v = direction(y, [50, 50, 50], 0)
    assert float(v.norm()) == pytest.approx(1)
    small, large, zero = (float(x.norm()) for x in v.split(50))
    assert large / zero == pytest.approx(10 * 3**0.5, rel=0.3)
    assert small == pytest.approx(zero, rel=0.5)


def test_asymmetry_of_a_matrix():
    m = randn(N, N)
    u, v = randn(N, seed=1), randn(N, seed=2)
    symmetric = m + m.T
    assert asymmetry(u, v, symmetric @ u, symmetric @ v) < 1e-14
    assert asymmetry(u, v, m @ u, m @ v) == pytest.approx(
        abs(float(u @ (m - m.T) @ v)) / float((m @ u).norm() * (m @ v).norm()) ** 0.5
    )


def test_a_function_of_single_precision_inside_is_told_from_a_wrong_slope():
    y, v = randn(N), randn(N, seed=1)
    v /= v.norm()
    slope = float(y.cos() @ v)
    assert rounds_to_single(lambda y: y.float().sin().sum().double(), y, v, slope)
    assert not rounds_to_single(lambda y: y.float().sin().sum().double(), y, v, 1.1 * slope)
    assert not rounds_to_single(lambda y: y.sin().sum(), y, v, slope)


def test_kinks_are_told_from_curvature_over_a_finite_step():
    y, v = randn(N), torch.ones(N) / N**0.5
    step = 1e-2 * scale(y)
    curved = kinks(lambda y: (3 * y).sin(), y, v, 3 * (3 * y).cos() * v, step, 1.0)
    assert curved.error > 1e-4
    assert not curved.found
    edges = torch.linspace(-3, 3, 6001)  # a thousand jumps in every unit
    stairs = kinks(lambda y: y + torch.searchsorted(edges, y) / 1000, y, v, v, step, 1.0)
    assert stairs.found
    assert stairs.error == pytest.approx(1, rel=0.05)
    one = kinks(lambda z: z + step * (z > y + step * v / 2), y, v, v, step, 1.0)  # which a shorter step does not cross
    assert one.found
