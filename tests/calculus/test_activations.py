"""Every activation of torch.nn, alone, between two points: against fifty digits, with derivatives where it has them."""

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import nn
from torch.nn import functional as F

from eom.calculus.discrete import discrete_gradient

WIDE = torch.float64


def piece(condition, one, other):
    return one if condition else other


def sigma(x):
    return 1 / (1 + mpmath.exp(-x))


def normal(x):
    return x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2


def nearly_normal(x):
    return x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpf(0.044715) * x**3)))


def bounded(x, low, high):
    return min(max(x, low), high)


SELU = mpf(1.0507009873554804934193349852946), mpf(1.6732632423543772848170429916717)
SMOOTH = {  # everywhere, or with one derivative everywhere
    "Sigmoid": (nn.Sigmoid(), sigma),
    "Tanh": (nn.Tanh(), mpmath.tanh),
    "GELU": (nn.GELU(), normal),
    "GELU by tanh": (nn.GELU("tanh"), nearly_normal),
    "SiLU": (nn.SiLU(), lambda x: x * sigma(x)),
    "Mish": (nn.Mish(), lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x)))),
    "Softplus": (nn.Softplus(2.0), lambda x: mpmath.log(1 + mpmath.exp(2 * x)) / 2),
    "LogSigmoid": (nn.LogSigmoid(), lambda x: mpmath.log(sigma(x))),
    "Tanhshrink": (nn.Tanhshrink(), lambda x: x - mpmath.tanh(x)),
    "Softsign": (nn.Softsign(), lambda x: x / (1 + abs(x))),
    "ELU": (nn.ELU(), lambda x: piece(x > 0, x, mpmath.expm1(x))),
    "CELU": (nn.CELU(0.7), lambda x: piece(x > 0, x, mpf(0.7) * mpmath.expm1(x / mpf(0.7)))),
    "squared ReLU": (lambda x: torch.relu(x) ** 2, lambda x: max(x, 0) ** 2),
    "cubed ReLU": (lambda x: torch.relu(-x) ** 3, lambda x: max(-x, 0) ** 3),
    "x ReLU": (lambda x: x * torch.relu(x), lambda x: x * max(x, 0)),
    "x ReLU of ReLU": (lambda x: x * torch.relu(torch.relu(x)), lambda x: x * max(x, 0)),
    "Huber": (lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none"), lambda x: huber(x)),
    "smooth L1": (lambda x: F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none"), lambda x: huber(x)),
}
KINKED = {
    "ReLU": (nn.ReLU(), lambda x: max(x, 0)),
    "LeakyReLU": (nn.LeakyReLU(), lambda x: piece(x > 0, x, mpf(0.01) * x)),
    "PReLU": (nn.PReLU(init=0.25).double(), lambda x: piece(x > 0, x, x / 4)),
    "SELU": (nn.SELU(), lambda x: SELU[0] * piece(x > 0, x, SELU[1] * mpmath.expm1(x))),
    "ELU of 0.5": (nn.ELU(0.5), lambda x: piece(x > 0, x, mpmath.expm1(x) / 2)),
    "Hardtanh": (nn.Hardtanh(), lambda x: bounded(x, -1, 1)),
    "ReLU6": (nn.ReLU6(), lambda x: bounded(x, 0, 6)),
    "Hardsigmoid": (nn.Hardsigmoid(), lambda x: bounded(x / 6 + mpf(1) / 2, 0, 1)),
    "Hardswish": (nn.Hardswish(), lambda x: x * bounded(x / 6 + mpf(1) / 2, 0, 1)),
    "Softshrink": (nn.Softshrink(0.5), lambda x: x - bounded(x, -mpf(1) / 2, mpf(1) / 2)),
    "Hardshrink": (nn.Hardshrink(0.5), lambda x: piece(abs(x) > mpf(1) / 2, x, mpf(0))),
    "Threshold": (nn.Threshold(0.1, 0.3), lambda x: piece(x > mpf(0.1), x, mpf(0.3))),
}
PLACES = [-8.0, -3.0, -1.0, -0.3, -1e-3, -1e-9, 0.0, 0.4, 1.0, 3.0, 7.0]
GAPS = [1e-12, 2e-9, 1e-5, 2e-3, 0.1, 0.3, 0.31, 0.7, 1.0, 2.0, 5.0, 20.0]


PAIRS = [pair for x in PLACES for gap in GAPS for pair in ((x + gap, x), (x, x + gap))]


def huber(x):
    return piece(abs(x) < 1, x**2 / 2, abs(x) - mpf(1) / 2)


def between(f, u: float, v: float) -> tuple[float, float, float]:
    """The discrete gradient of f, and its derivatives in u and v."""
    points = [torch.tensor([[x]], dtype=WIDE, requires_grad=True) for x in (u, v)]
    found = discrete_gradient(lambda x: f(x)[:, 0], *points)
    slopes = torch.autograd.grad(found.sum(), points, materialize_grads=True)
    return found.item(), *(x.item() for x in slopes)  # type: ignore[return-value] - three of them


@pytest.mark.parametrize("name", SMOOTH | KINKED)
def test_an_activation_has_its_divided_difference_to_rounding(name):
    f, exact = (SMOOTH | KINKED)[name]
    with mpmath.workdps(50):
        for u, v in PAIRS:
            x, y = mpf(u), mpf(v)
            wanted = (exact(x) - exact(y)) / (x - y)
            assert abs(between(f, u, v)[0] - wanted) <= 1e-12 * (1 + abs(wanted)), (u, v)


@pytest.mark.parametrize("name", SMOOTH)
def test_an_activation_without_kinks_has_the_derivatives_of_its_divided_difference(name):
    """At joints of two pieces too, where both have the same slope."""
    f, exact = SMOOTH[name]
    with mpmath.workdps(50):
        for u, v in PAIRS:
            x, y = mpf(u), mpf(v)
            value = (exact(x) - exact(y)) / (x - y)
            wanted = (slope(exact, x) - value) / (x - y), (value - slope(exact, y)) / (x - y)
            for got, right in zip(between(f, u, v)[1:], wanted, strict=True):
                assert abs(got - right) <= 1e-12 * (1 + abs(right)), (u, v)


def test_a_sum_of_pieces_that_is_smooth_has_its_derivative_at_the_joint():
    """tanh of relu(x) + min(x, 0): s[0, 1] = tanh 1, ds/du = (1 - tanh 1) / (0 - 1)."""
    found, slope, _ = between(lambda x: torch.tanh(torch.relu(x) + x.clamp(max=0)), 0.0, 1.0)
    assert (found, slope) == (pytest.approx(math.tanh(1), rel=1e-14), pytest.approx(math.tanh(1) - 1, rel=1e-14))


def slope(f, x):
    """By differences of one side, as pieces may end at x."""
    with mpmath.workdps(120):
        h = mpf(10) ** -40
        return (f(x + h) - f(x - h)) / (2 * h)
