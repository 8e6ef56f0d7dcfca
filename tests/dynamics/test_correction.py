"""The corrected field: closed forms first, then orders, then one route against another."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
import torch
from problems import bowl, quadratic, randn, smooth_field, square, symmetric
from torch import Tensor

from eom.dynamics.correction import ByLogMap, ByRecursion, ByTerms, corrected, log_weights
from eom.dynamics.field import VectorField, decay, gradient_flow, plus, scaled
from eom.dynamics.integrate import flow
from eom.dynamics.runge_kutta import RK4, Euler, Heun, RungeKutta
from eom.dynamics.stepper import end
from eom.errors import SettingError
from eom.testing import observed_order

A = symmetric([3.0, 1.0, 0.2, 0.0, -0.5])
H = 0.1
assert_exact = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)


def power(matrix: Tensor, k: int) -> Tensor:
    return torch.linalg.matrix_power(matrix, k)


# Closed forms


def test_log_weights_are_the_exact_rationals():
    expected = {
        1: [1],
        2: [Fraction(3, 2), Fraction(-1, 2)],
        3: [Fraction(11, 6), Fraction(-7, 6), Fraction(1, 3)],
        4: [Fraction(25, 12), Fraction(-23, 12), Fraction(13, 12), Fraction(-1, 4)],
    }
    for terms, weights in expected.items():
        assert log_weights(terms) == pytest.approx([float(w) for w in weights], rel=1e-15)


@pytest.mark.parametrize("terms", range(1, 13))
def test_log_weights_are_the_alternating_sum_of_differences(terms):
    exact = [(-1) ** j * sum(Fraction(math.comb(m, j), m + 1) for m in range(j, terms)) for j in range(terms)]
    assert sum(exact) == 1  # a constant slope is its own rate
    assert log_weights(terms) == pytest.approx([float(w) for w in exact], rel=1e-15)


def euler_on_a_quadratic(order: int) -> Tensor:
    """log(1 - h A) / h to the power ``order`` of h: - sum_{m <= k} h^m A^{m+1} / (m + 1)."""
    return -sum((H**m * power(A, m + 1) / (m + 1) for m in range(order + 1)), start=torch.zeros_like(A))


@pytest.mark.parametrize(("order", "method"), [(k, "terms") for k in range(3)] + [(k, "log-map") for k in range(8)])
def test_gradient_descent_on_a_quadratic_is_corrected_by_the_series_of_the_logarithm(order, method):
    """Delta^m s_0 = -A (-h A)^m y, so the log map keeps exactly the powers that the terms keep."""
    y = randn(5)
    found = corrected(gradient_flow(quadratic(A)), Euler(), H, order, method)(0.0, y)
    assert_exact(found, euler_on_a_quadratic(order) @ y)


@pytest.mark.parametrize("order", [0, 1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_euler_on_a_linear_plain_field_is_corrected_by_the_series_of_the_logarithm(order):
    y = randn(5)
    found = corrected(lambda t, x: -A @ x, Euler(), H, order, "terms")(0.0, y)
    assert_exact(found, euler_on_a_quadratic(order) @ y)


@pytest.mark.parametrize("order", range(3))
def test_heun_on_a_quadratic_keeps_the_powers_of_h_by_terms(order):
    """log(1 - z + z^2/2) = -z + z^3/6 + O(z^4)."""
    y = randn(5)
    expected = -A @ y + (H**2 * power(A, 3) @ y / 6 if order == 2 else 0)
    found = corrected(gradient_flow(quadratic(A)), Heun(), H, order, "terms")(0.0, y)
    assert_exact(found, expected)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(
    ("stepper", "change"),
    [
        (Heun(), -H * A + power(H * A, 2) / 2),
        (RK4(), -H * A + power(H * A, 2) / 2 - power(H * A, 3) / 6 + power(H * A, 4) / 24),
    ],
    ids=["Heun", "RK4"],
)
def test_the_log_map_on_a_quadratic_is_the_series_of_the_logarithm_of_the_whole_step(stepper, change, order):
    """With y_1 = (1 + c) y_0: F = sum_{m <= k} (-1)^m c^{m+1} / (m + 1) / h."""
    y = randn(5)
    expected = sum((-1) ** m * power(change, m + 1) @ y / (m + 1) / H for m in range(order + 1))
    found = corrected(gradient_flow(quadratic(A)), stepper, H, order, "log-map")(0.0, y)
    assert_exact(found, expected)


def test_a_preconditioned_quadratic_with_decay_is_corrected_as_one_linear_field():
    """y' = -P (A + D) y, a matrix that is not symmetric."""
    p, d, y = torch.tensor([1.0, 0.5, 0.25, 0.0, 2.0]), torch.tensor([0.1, 0.2, 0.0, 1.0, 0.3]), randn(5)
    field = scaled(plus(gradient_flow(quadratic(A)), decay(d)), p)
    m = p.diag() @ (A + d.diag())
    expected = -(m + H * power(m, 2) / 2 + H**2 * power(m, 3) / 3) @ y
    for method in ("terms", "log-map"):
        assert_exact(corrected(field, Euler(), H, 2, method)(0.0, y), expected)


def test_the_first_term_on_a_riccati_equation_is_minus_z_cubed():
    z = torch.tensor([0.5])
    expected = [0.25, 0.25 - H * 0.125, 0.25 - H * 0.125 + H**2 * 1.5 * 0.0625]
    for order, value in enumerate(expected):
        found = corrected(lambda t, y: square(y), Euler(), H, order, "terms")(0.0, z)
        assert found.item() == pytest.approx(value, rel=1e-13)


# A second implementation


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("stepper", [Euler(), Heun(), RK4()], ids=repr)
def test_terms_of_a_gradient_flow_are_those_of_the_recursion_on_the_same_plain_field(stepper, order):
    """One uses products of H and T by reverse mode, the other nested forward mode and no tableau's moments."""
    y = randn(4)
    smooth = corrected(gradient_flow(bowl), stepper, H, order, "terms")
    plain = corrected(lambda t, x: -torch.func.grad(bowl)(x), stepper, H, order, "terms")
    assert isinstance(smooth, ByTerms)
    assert isinstance(plain, ByRecursion)
    torch.testing.assert_close(smooth(0.0, y), plain(0.0, y), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("stepper", [Euler(), Heun(), RK4()], ids=repr)
@pytest.mark.parametrize("order", range(3))
def test_all_orders_at_once_are_those_one_by_one(stepper, order):
    y = randn(4)
    field = gradient_flow(bowl)
    together = ByTerms(field, stepper, H, order).orders(0.0, y)
    assert len(together) == order + 1
    for k, found in enumerate(together):
        assert torch.equal(found, ByTerms(field, stepper, H, k)(0.0, y))


def test_order_zero_of_euler_is_the_field_itself():
    y, field = randn(4), gradient_flow(bowl)
    for method in ("terms", "log-map"):
        assert torch.equal(corrected(field, Euler(), H, 0, method)(0.0, y), field(0.0, y))


def test_auto_takes_terms_to_order_two_and_the_log_map_beyond():
    field = gradient_flow(bowl)
    assert [type(corrected(field, Euler(), H, k)) for k in range(5)] == [ByTerms] * 3 + [ByLogMap] * 2
    plain = smooth_field()
    kinds = [type(corrected(lambda t, y: plain(y), Heun(), H, k)) for k in range(4)]
    assert kinds == [ByRecursion] * 3 + [ByLogMap]


# Measured orders

STEPS = [0.04, 0.02, 0.01]


def one_step_order(field: VectorField, stepper: RungeKutta, y: Tensor, order: int, method: str, steps=STEPS) -> float:
    """Slope of |flow over h - one step| against h."""

    def error(h: float) -> float:
        corrected_field = corrected(field, stepper, h, order, method)
        if isinstance(corrected_field, ByRecursion):  # dear: two steps of RK4 are off by h^5 / 16 times a small number
            flowed = end(corrected_field, RK4(), y, h=h / 2, steps=2)
        else:
            flowed = flow(corrected_field, y, h, rtol=0.0, atol=1e-15)
        return float((flowed - end(field, stepper, y, h=h, steps=1)).norm())

    return observed_order(error, steps)


def fields() -> dict[str, VectorField]:
    weights = torch.tensor([1.0, 0.5, 0.3, 0.1])
    rough = smooth_field(2)

    def clock(t: float, y: Tensor) -> Tensor:
        s = torch.as_tensor(t, dtype=y.dtype)
        return 0.3 * torch.sin(y.roll(1) + 2 * s) + torch.cos(s) * 0.2 * y

    def plain(t: float, y: Tensor) -> Tensor:
        return torch.cat([rough(y[:3]) / 3, -y[3:]])

    return {
        "descent": gradient_flow(bowl),
        "decayed": plus(gradient_flow(bowl), decay(0.2 * weights)),
        "preconditioned": scaled(plus(gradient_flow(bowl), decay(0.1)), weights),
        "plain": plain,
        "time-dependent": clock,
    }


FIELDS = fields()
PLAIN = ("plain", "time-dependent")
ROUTES = [
    pytest.param(name, method, order, marks=[pytest.mark.slow] * (name in PLAIN and method == "terms" and order > 1))
    for name in FIELDS
    for method in ("terms", "log-map")
    for order in range(4)
    if method == "log-map" or order < 3 or name in PLAIN
]


@pytest.mark.parametrize(("name", "method", "order"), ROUTES)
def test_one_step_of_euler_differs_from_its_corrected_flow_by_h_to_the_order_plus_two(name, method, order):
    steps = [0.04, 0.02] if name in PLAIN and method == "terms" else STEPS
    slope = one_step_order(FIELDS[name], Euler(), randn(4, seed=3), order, method, steps)
    assert slope == pytest.approx(order + 2, abs=0.1)


@pytest.mark.parametrize("method", ["terms", "log-map"])
@pytest.mark.parametrize(("order", "slope"), [(0, 1), (1, 2), (2, 3)])
def test_a_march_of_euler_differs_from_its_corrected_flow_by_h_to_the_order_plus_one(order, slope, method):
    field, y = FIELDS["preconditioned"], randn(4, seed=3)

    def error(h: float) -> float:
        flowed = flow(corrected(field, Euler(), h, order, method), y, 0.4, rtol=0.0, atol=1e-14)
        return float((flowed - end(field, Euler(), y, h=h, steps=round(0.4 / h))).norm())

    assert observed_order(error, STEPS) == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize(
    ("stepper", "order", "slope"),
    [(Heun(), 0, 3), (Heun(), 1, 3), (Heun(), 2, 4), (RK4(), 0, 5), (RK4(), 1, 5), (RK4(), 2, 5)],
    ids=str,
)
def test_by_terms_the_order_is_the_highest_power_of_h_kept_whatever_the_stepper(stepper, order, slope):
    """Heun's own error is h^3 and RK4's h^5: powers of h below that are kept because they vanish."""
    steps = [0.2, 0.1, 0.05]
    for name in ("descent", "preconditioned"):
        found = one_step_order(FIELDS[name], stepper, randn(4, seed=3), order, "terms", steps)
        assert found == pytest.approx(slope, abs=0.15)


@pytest.mark.slow
def test_heun_on_a_time_dependent_field_is_corrected_by_the_recursion():
    slope = one_step_order(FIELDS["time-dependent"], Heun(), randn(4, seed=3), 2, "terms", [0.05, 0.025])
    assert slope == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("stepper", [Heun(), RK4()], ids=repr)
def test_the_log_map_of_heun_and_rk4_leaves_h_to_the_order_plus_two(stepper, order):
    """From a look-ahead with the stepper's own slopes, of which order 0 is the difference quotient."""
    found = one_step_order(FIELDS["descent"], stepper, randn(4, seed=3), order, "log-map", [0.01, 0.005])
    assert found == pytest.approx(order + 2, abs=0.1)


def test_any_stepper_without_a_carry_has_a_log_map():
    """Implicit midpoint on y' = -A y multiplies by (1 - hA/2) / (1 + hA/2), whose logarithm is -2 artanh(hA/2)."""

    class Midpoint:
        def init(self, y: Tensor) -> None:
            return None

        def step(self, field: VectorField, t: float, h: float, y: Tensor, carry: None) -> tuple[Tensor, None]:
            half = h * A / 2
            return torch.linalg.solve(torch.eye(5) + half, y - half @ y), None

    y = randn(5)
    values, vectors = torch.linalg.eigh(A)
    exact = vectors @ (-2 * torch.atanh(0.01 * values / 2) / 0.01 * (vectors.T @ y))
    found = corrected(lambda t, x: -A @ x, Midpoint(), 0.01, 6, "log-map")(0.0, y)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)  # (0.03)^7 and rounding / h


class Own:
    """Euler's method, as somebody else would write it."""

    def init(self, y: Tensor) -> None:
        return None

    def step(self, field: VectorField, t: float, h: float, y: Tensor, carry: None) -> tuple[Tensor, None]:
        return y + h * field(t, y), None


@pytest.mark.parametrize("order", range(4))
def test_the_log_map_of_a_stepper_of_ones_own_sees_the_time_too(order):
    field, y = FIELDS["time-dependent"], randn(4)
    own, euler = (corrected(field, s, H, order, "log-map")(0.3, y) for s in (Own(), Euler()))
    torch.testing.assert_close(own, euler, rtol=0.0, atol=1e-13)  # rounding / h


@pytest.mark.parametrize("order", range(5))
def test_the_log_map_of_order_k_costs_k_evaluations_more_than_the_field(order):
    evaluations = 0

    def counted(t: float, y: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return -y

    corrected(counted, Euler(), H, order, "log-map")(0.0, randn(4))
    assert evaluations == order + 1


# Bad input


@pytest.mark.parametrize("order", [-1, 1.0, True, None, "2"])
def test_an_order_that_is_no_whole_number_is_refused(order):
    with pytest.raises(SettingError, match=r"expected 0, 1, 2, ...: the highest power of h to keep"):
        corrected(gradient_flow(bowl), Euler(), H, order)


@pytest.mark.parametrize("h", [0.0, -0.1, math.nan, math.inf])
def test_a_step_that_is_not_positive_is_refused(h):
    with pytest.raises(SettingError, match="expected a finite positive step"):
        corrected(gradient_flow(bowl), Euler(), h, 1)


def test_an_unknown_method_is_refused():
    with pytest.raises(SettingError, match='expected "auto", "terms" or "log-map"'):
        corrected(gradient_flow(bowl), Euler(), H, 1, "magic")


def test_terms_beyond_the_derivatives_of_a_field_are_refused_with_the_way_out():
    with pytest.raises(SettingError, match=r'order 3 of Euler\(\) by terms.*Use method="log-map"'):
        corrected(gradient_flow(bowl), Euler(), H, 3, "terms")


def test_terms_of_a_stepper_without_a_tableau_are_refused_with_the_way_out():
    with pytest.raises(SettingError, match='Use method="log-map"'):
        corrected(gradient_flow(bowl), Own(), H, 1, "terms")
    found: Callable = corrected(gradient_flow(bowl), Own(), H, 1)
    assert isinstance(found, ByLogMap)
