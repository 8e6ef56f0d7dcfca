"""Fields keep their derivatives through sums and multiples; steppers have their orders."""

import pytest
import torch
from problems import bowl, randn, smooth_field
from torch import Tensor
from torch.func import jvp

from eom.dynamics.field import Decay, SmoothField, VectorField, decay, derivative, gradient_flow, plus, scaled
from eom.dynamics.runge_kutta import RK4, Euler, Heun, RungeKutta
from eom.dynamics.stepper import end, march
from eom.testing import observed_order

N = 6
WEIGHTS = torch.arange(1, N + 1, dtype=torch.float64) / N
FIELDS = {
    "gradient flow": gradient_flow(bowl),
    "sum": plus(gradient_flow(bowl), decay(0.3), gradient_flow(lambda y: torch.cos(y).sum())),
    "scaled by a number": scaled(gradient_flow(bowl), 0.2),
    "scaled by a vector": scaled(gradient_flow(bowl), WEIGHTS),
    "decay by a vector": decay(WEIGHTS),
    "scaled sum": scaled(plus(gradient_flow(bowl), decay(WEIGHTS)), WEIGHTS.flip(0)),
}


def forward(field: VectorField, y: Tensor, *vs: Tensor) -> Tensor:
    """f^(m)(y)(v_1, ..., v_m) by forward mode, blind to what the field brings."""
    if not vs:
        return field(0.0, y)
    return jvp(lambda x: forward(field, x, *vs[1:]), (y,), (vs[0],))[1]


def plainly(name: str) -> VectorField:
    """The same fields as plain formulas."""

    def descent(y: Tensor) -> Tensor:
        return -torch.func.grad(bowl)(y)

    return {
        "gradient flow": lambda t, y: descent(y),
        "sum": lambda t, y: descent(y) - 0.3 * y + torch.sin(y),
        "scaled by a number": lambda t, y: 0.2 * descent(y),
        "scaled by a vector": lambda t, y: WEIGHTS * descent(y),
        "decay by a vector": lambda t, y: -WEIGHTS * y,
        "scaled sum": lambda t, y: WEIGHTS.flip(0) * (descent(y) - WEIGHTS * y),
    }[name]


@pytest.mark.parametrize("name", FIELDS)
def test_fields_bring_the_derivatives_that_forward_mode_finds(name):
    field, plain = FIELDS[name], plainly(name)
    y, u, v = randn(N), randn(N, seed=1), randn(N, seed=2)
    assert isinstance(field, SmoothField)
    value, product = field.linearize(0.0, y)
    torch.testing.assert_close(value, plain(0.0, y))
    torch.testing.assert_close(field(0.0, y), plain(0.0, y))
    torch.testing.assert_close(product(v), forward(plain, y, v))
    torch.testing.assert_close(field.second_derivative(0.0, y, u, v), forward(plain, y, u, v))


def test_sums_and_multiples_of_plain_fields_are_plain_and_right():
    f, y, v = smooth_field(0, N), randn(N), randn(N, seed=1)

    def timed(t: float, x: Tensor) -> Tensor:
        return f(x) + t

    total, multiple = plus(timed, decay(0.1)), scaled(timed, WEIGHTS)
    assert not isinstance(total, SmoothField)
    assert not isinstance(multiple, SmoothField)
    torch.testing.assert_close(total(2.0, y), f(y) + 2 - 0.1 * y)
    torch.testing.assert_close(multiple(2.0, y), WEIGHTS * (f(y) + 2))
    torch.testing.assert_close(derivative(total, 2.0, y, v), jvp(f, (y,), (v,))[1] - 0.1 * v)


def test_the_derivative_of_a_smooth_field_is_its_own():
    field, y, v = FIELDS["scaled sum"], randn(N), randn(N, seed=1)
    torch.testing.assert_close(derivative(field, 0.0, y, v), forward(plainly("scaled sum"), y, v))


def test_weight_decay_of_the_loss_and_of_the_field_are_the_same_flow():
    within = gradient_flow(lambda y: bowl(y) + 0.3 * y @ y / 2)
    beside = plus(gradient_flow(bowl), decay(0.3))
    y = randn(N)
    torch.testing.assert_close(within(0.0, y), beside(0.0, y))
    assert isinstance(decay(0.3), Decay)


# Steppers


def oscillator(t: float, y: Tensor) -> Tensor:
    """y'' = -y + cos 2t, as a system; forced, so that the stages' times matter."""
    return torch.stack([y[1], -y[0] + torch.cos(torch.tensor(2 * t))])


def solution(t: float) -> Tensor:
    """The oscillator's from (1, 0): y = 4/3 cos t - 1/3 cos 2t."""
    s = torch.tensor(t)
    y = 4 / 3 * s.cos() - (2 * s).cos() / 3
    return torch.stack([y, -4 / 3 * s.sin() + 2 / 3 * (2 * s).sin()])


@pytest.mark.parametrize("stepper", [Euler(), Heun(), RK4()], ids=repr)
def test_steppers_have_their_order_on_a_forced_oscillator(stepper: RungeKutta):
    def error(h: float) -> float:
        return float((end(oscillator, stepper, solution(0.0), h=h, steps=round(2 / h)) - solution(2.0)).norm())

    assert observed_order(error, [0.02, 0.01, 0.005]) == pytest.approx(stepper.order, abs=0.05)


@pytest.mark.parametrize("stepper", [Euler(), Heun(), RK4()], ids=repr)
def test_a_slope_is_the_difference_quotient_of_a_step(stepper: RungeKutta):
    y, h = randn(2), 0.25
    ahead, _ = stepper.step(oscillator, 0.3, h, y, stepper.init(y))
    torch.testing.assert_close(stepper.slope(oscillator, 0.3, h, y), (ahead - y) / h, rtol=1e-14, atol=1e-14)


def test_a_march_of_euler_is_gradient_descent():
    y = expected = randn(N)
    for _ in range(5):
        expected = expected - 0.1 * torch.func.grad(bowl)(expected)
    assert torch.equal(end(gradient_flow(bowl), Euler(), y, h=0.1, steps=5), expected)


def test_a_march_yields_the_start_and_every_step_with_its_time():
    seen = list(march(oscillator, Heun(), solution(0.0), h=0.1, steps=3, t=1.0))
    assert [t for t, _ in seen] == pytest.approx([1.0, 1.1, 1.2, 1.3], rel=1e-15)
    assert torch.equal(seen[0][1], solution(0.0))
    assert torch.equal(end(oscillator, Euler(), solution(0.0), h=0.1, steps=0), solution(0.0))


def test_a_march_hands_the_carry_on():
    class Momentum:
        def init(self, y: Tensor) -> Tensor:
            return torch.zeros_like(y)

        def step(self, field: VectorField, t: float, h: float, y: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
            carry = 0.5 * carry + field(t, y)
            return y + h * carry, carry

    found = end(lambda t, y: torch.ones(1), Momentum(), torch.zeros(1), h=1.0, steps=3)
    assert found.tolist() == [1 + 1.5 + 1.75]
