"""Divided differences against sixty digits, from far apart to the same point, with their derivatives."""

from functools import partial

import mpmath
import pytest
import torch

from eom.calculus import divided

WIDE = torch.float64
GAPS = [0.0, 1e-17, 1e-12, 1e-8, 1e-5, 1e-3, 0.01, 0.1, 0.24, 0.29, 0.31, 0.49, 0.51, 0.9, 1.1, 2.0, 5.0]
REAL, POSITIVE = [-8.0, -3.0, -1.0, -0.3, 0.0, 0.4, 1.0, 3.0, 7.0], [0.5, 1.0, 3.0, 8.0]
FUNCTIONS = {
    "tanh": (torch.tanh, mpmath.tanh, REAL),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), REAL),
    "sin": (torch.sin, mpmath.sin, REAL),
    "cos": (torch.cos, mpmath.cos, REAL),
    "sinh": (torch.sinh, mpmath.sinh, REAL),
    "cosh": (torch.cosh, mpmath.cosh, REAL),
    "exp": (torch.exp, mpmath.exp, REAL),
    "erf": (torch.erf, mpmath.erf, REAL),
    "atan": (torch.atan, mpmath.atan, REAL),
    "softplus": (lambda x: torch.logaddexp(x, 0 * x), lambda x: mpmath.log(1 + mpmath.exp(x)), REAL),
    "log": (torch.log, mpmath.log, POSITIVE),
    "log1p": (torch.log1p, lambda x: mpmath.log(1 + x), POSITIVE),
    "sqrt": (torch.sqrt, mpmath.sqrt, POSITIVE),
    "rsqrt": (torch.rsqrt, lambda x: 1 / mpmath.sqrt(x), POSITIVE),
    "reciprocal": (torch.reciprocal, lambda x: 1 / x, POSITIVE),
    "power 0.3": (lambda x: x**0.3, lambda x: x ** mpmath.mpf(0.3), POSITIVE),
    "power 2.5": (lambda x: x**2.5, lambda x: x ** mpmath.mpf(2.5), POSITIVE),
}
RULES = vars(divided) | {f"power {n}": partial(divided.power, n=n) for n in (0.3, 2.5)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_are_right_to_rounding_however_near_the_points(name):
    own, exact, places = FUNCTIONS[name]
    with mpmath.workdps(60):
        for place in places:
            for gap in GAPS:
                u, v = (torch.tensor(x, dtype=WIDE, requires_grad=True) for x in (place + gap, place))
                found = RULES[name](u, v, own(u), own(v))
                slope, other = torch.autograd.grad(found, (u, v))
                x, y = mpmath.mpf(u.item()), mpmath.mpf(v.item())
                if x == y:
                    value = mpmath.diff(exact, x)
                    slopes = (mpmath.diff(exact, x, 2) / 2,) * 2
                else:
                    value = (exact(x) - exact(y)) / (x - y)
                    slopes = ((mpmath.diff(exact, x) - value) / (x - y), (value - mpmath.diff(exact, y)) / (x - y))
                for got, wanted in zip((found, slope, other), (value, *slopes), strict=True):
                    assert abs(got.item() - wanted) <= 1e-14 * (1 + abs(wanted)), (place, gap)


@pytest.mark.parametrize(
    ("u", "v", "value"),
    [(2.0, 1.0, 1.0), (-1.0, -2.0, 0.0), (3.0, -1.0, 0.75), (-1.0, 3.0, 0.75), (1e-300, -1e-300, 0.5), (0.0, 0.0, 0.0)],
)
def test_the_share_of_the_way_on_which_relu_rises(u, v, value):
    u, v = (torch.tensor(x, dtype=WIDE) for x in (u, v))
    assert float(divided.relu(u, v, u.relu(), v.relu())) == value


def test_a_second_derivative_of_a_divided_difference_is_right():
    x = torch.linspace(-2, 2, 9, dtype=WIDE, requires_grad=True)
    y = (x.detach() + torch.linspace(-0.9, 0.9, 9, dtype=WIDE)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, b: divided.tanh(a, b, a.tanh(), b.tanh()), (x, y))
