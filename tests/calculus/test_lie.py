"""Modified equations against exact coefficients and against elementary differentials written out."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from problems import randn, smooth_field, square
from torch import Tensor
from torch.func import jvp

from eom.calculus.lie import along, compositions, modified_terms, taylor

Field = Callable[[Tensor], Tensor]
FIELDS: dict[str, Field] = {"sine": torch.sin, "random": smooth_field(3)}
RICCATI = [Fraction(x) for x in ("1", "-1", "3/2", "-8/3", "31/6", "-157/15")]


def euler(f: Field, terms: int) -> list[Field]:
    """Terms of the modified equation of y + h f(y)."""
    return modified_terms([f] + [torch.zeros_like] * (terms - 1))


class Differentials:
    """Derivatives f^(m)(y)(v_1, ..., v_m) of one field at one point, by nested forward mode."""

    def __init__(self, f: Field, y: Tensor):
        self.f, self.y = f, y

    def __call__(self, *vs: Tensor) -> Tensor:
        def derivative(y: Tensor, vs: tuple[Tensor, ...]) -> Tensor:
            if not vs:
                return self.f(y)
            return jvp(lambda x: derivative(x, vs[1:]), (y,), (vs[0],))[1]

        return derivative(self.y, vs)


def euler_by_elementary_differentials(f: Field, y: Tensor) -> list[Tensor]:
    """Coefficients of h^0 .. h^4 of Euler's modified equation, each tree written out."""
    d = Differentials(f, y)
    f0 = d()
    f1 = d(f0)  # f'f
    f2 = d(f1)  # f'f'f
    f3 = d(f2)
    b = d(f0, f0)  # f''(f, f)
    return [
        f0,
        -f1 / 2,
        f2 / 3 + b / 12,
        -f3 / 4 - d(b) / 12 - d(f0, f1) / 12,
        d(f3) / 5
        + 3 * d(d(b)) / 40
        + d(d(f0, f1)) / 10
        + d(d(f0, f0, f0)) / 180
        + d(f1, f1) / 60
        + d(f0, f2) / 20
        + d(f0, b) / 120
        - d(f0, f0, f1) / 120
        - d(f0, f0, f0, f0) / 720,
    ]


def assert_riccati(terms: int):
    """On z' = z^2 the j-th term is c_j z^{j+1}."""
    z = torch.tensor([1.0, -0.5, 0.3])
    for j, (term, c) in enumerate(zip(euler(square, terms), RICCATI[:terms], strict=True)):
        torch.testing.assert_close(term(z), float(c) * z ** (j + 2), rtol=1e-13, atol=0.0)


def test_euler_on_a_riccati_equation_has_the_exact_rational_coefficients():
    assert_riccati(5)


@pytest.mark.slow
def test_euler_on_a_riccati_equation_has_the_exact_sixth_coefficient():
    assert_riccati(6)


@pytest.mark.parametrize("name", FIELDS)
def test_eulers_terms_are_the_elementary_differentials_to_h3(name):
    y = randn(3, seed=5)
    expected = euler_by_elementary_differentials(FIELDS[name], y)
    for term, value in zip(euler(FIELDS[name], 4), expected, strict=False):
        torch.testing.assert_close(term(y), value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", FIELDS)
def test_eulers_terms_are_the_elementary_differentials_to_h4(name):
    y = randn(3, seed=5)
    expected = euler_by_elementary_differentials(FIELDS[name], y)[4]
    torch.testing.assert_close(euler(FIELDS[name], 5)[4](y), expected, rtol=1e-10, atol=1e-11)


def heun(f: Field) -> Callable[[Tensor, Tensor], Tensor]:
    def step(h: Tensor, y: Tensor) -> Tensor:
        k1 = f(y)
        return y + h / 2 * (k1 + f(y + h * k1))

    return step


def rk4(f: Field) -> Callable[[Tensor, Tensor], Tensor]:
    def step(h: Tensor, y: Tensor) -> Tensor:
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + h / 2 * k2)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(y + h * k3))

    return step


@pytest.mark.parametrize("name", FIELDS)
def test_taylor_of_heuns_step_gives_its_increments(name):
    f, y = FIELDS[name], randn(3, seed=5)
    d = Differentials(f, y)
    expected = [d(), d(d()) / 2, d(d(), d()) / 4, d(d(), d(), d()) / 12]
    for found, value in zip(taylor(heun(f), 4), expected, strict=True):
        torch.testing.assert_close(found(y), value, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", FIELDS)
def test_heuns_modified_equation_starts_at_h2(name):
    f, y = FIELDS[name], randn(3, seed=5)
    d = Differentials(f, y)
    first, second, third = (term(y) for term in modified_terms(taylor(heun(f), 3)))
    torch.testing.assert_close(first, d(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(second, torch.zeros(3), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(third, d(d(), d()) / 12 - d(d(d())) / 6, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_rk4s_modified_equation_starts_at_h4_with_the_known_value_on_a_linear_field():
    """On y' = a y: log(1 + z + z^2/2 + z^3/6 + z^4/24) = z - z^5/120 + ..."""
    a, y = torch.tensor([0.7, -1.3]), torch.tensor([0.4, 2.0])
    terms = [term(y) for term in modified_terms(taylor(rk4(lambda x: a * x), 5))]
    torch.testing.assert_close(terms[0], a * y, rtol=1e-12, atol=0.0)
    for term in terms[1:4]:
        torch.testing.assert_close(term, torch.zeros(2), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(terms[4], -(a**5) * y / 120, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("terms", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_rk4s_modified_equation_has_no_term_below_h4_on_a_random_field(terms):
    y = randn(3, seed=5)
    terms = modified_terms(taylor(rk4(smooth_field(3)), terms))
    for term in terms[1:]:
        torch.testing.assert_close(term(y), torch.zeros(3), rtol=0.0, atol=1e-10)


def test_the_derivative_along_a_field_is_the_product_with_the_jacobian():
    u, w, y = smooth_field(1), smooth_field(2), randn(3, seed=5)
    jacobian = torch.autograd.functional.jacobian(w, y)
    torch.testing.assert_close(along(u, w)(y), jacobian @ u(y), rtol=1e-12, atol=1e-13)


def test_compositions_are_all_ordered_sums():
    assert sorted(compositions(4, 2)) == [(1, 3), (2, 2), (3, 1)]
    assert sum(len(list(compositions(6, parts))) for parts in range(1, 7)) == 2**5
