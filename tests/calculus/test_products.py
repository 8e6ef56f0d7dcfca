"""Gradient, Hessian-vector product and third derivative of functions on flat vectors."""

from functools import partial

import pytest
import torch
from problems import bowl, quadratic, randn, symmetric
from torch import Tensor
from torch.func import hessian, jacrev
from torch.nn import functional as F

from eom.calculus.potentials import Function, Mean, Pinned
from eom.calculus.products import expand, forward_difference, third_derivative
from eom.calculus.products import value_and_gradient as expand_once
from eom.testing import observed_order

N = 6
assert_exact = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)  # some hundred roundings


def dense_third(y: Tensor) -> Tensor:
    """D^3 of ``bowl``, [n, n, n], by a Jacobian of the Hessian."""
    return jacrev(hessian(bowl))(y)


def test_hessian_products_are_those_of_the_dense_hessian():
    y, dense = randn(N), hessian(bowl)(randn(N))
    _, _, hvp = expand(bowl, y)
    for v in torch.eye(N):
        assert_exact(hvp(v), dense @ v)


def test_third_derivative_is_that_of_the_dense_one():
    y, u, v = randn(N), randn(N, seed=1), randn(N, seed=2)
    expected = torch.einsum("ijk,j,k->i", dense_third(y), u, v)
    assert_exact(third_derivative(bowl, y, u, v), expected)


def test_value_and_gradient_agree_between_the_two_routes():
    y = randn(N)
    value, gradient = expand_once(bowl, y)
    expansion = expand(bowl, y)
    assert value == expansion.value == bowl(y)
    assert_exact(gradient, expansion.gradient)


def test_central_differences_approach_each_derivative_to_second_order():
    y, u, v = randn(N), randn(N, seed=1), randn(N, seed=2)
    steps = [4e-3, 2e-3, 1e-3]

    def slope(f, derivative: Tensor, along: Tensor) -> float:
        def error(e: float) -> float:
            return float((((f(y + e * along) - f(y - e * along)) / (2 * e)) - derivative).norm())

        return observed_order(error, steps)

    gradient = lambda x: expand_once(bowl, x)[1]  # noqa: E731
    assert slope(bowl, gradient(y) @ u, u) == pytest.approx(2, abs=0.02)
    assert slope(gradient, expand(bowl, y).hvp(u), u) == pytest.approx(2, abs=0.02)
    assert slope(lambda x: expand(bowl, x).hvp(u), third_derivative(bowl, y, u, v), v) == pytest.approx(2, abs=0.02)


def test_derivatives_are_symmetric():
    y, u, v = randn(N), randn(N, seed=1), randn(N, seed=2)
    hvp = expand(bowl, y).hvp
    assert u @ hvp(v) == pytest.approx(float(v @ hvp(u)), rel=1e-12)
    assert_exact(third_derivative(bowl, y, u, v), third_derivative(bowl, y, v, u))


def test_a_linear_function_has_zero_second_and_third_derivatives():
    y, c = randn(N), randn(N, seed=1)
    linear = lambda x: c @ x  # noqa: E731
    assert not expand(linear, y).hvp(c).any()
    assert not third_derivative(linear, y, c, c).any()


def test_a_quadratic_has_its_matrix_as_hessian_and_zero_third_derivative():
    y, v, a = randn(N), randn(N, seed=1), symmetric([1.0, 2.0, 3.0, -1.0, 0.0, 5.0])
    assert_exact(expand(quadratic(a), y).hvp(v), a @ v)
    assert not third_derivative(quadratic(a), y, v, v).any()


def test_a_kept_graph_gives_any_number_of_products_under_no_grad():
    hvp = expand(bowl, randn(N)).hvp
    with torch.no_grad():
        first, again = hvp(randn(N, seed=1)), hvp(randn(N, seed=1))
    assert torch.equal(first, again)
    assert not first.requires_grad


def test_attention_by_torchs_fused_kernel_has_second_derivatives_here():
    x = randn(1, 2, 5, 4, seed=3)

    def loss(y: Tensor) -> Tensor:
        q, k, v = y.view(3, 4, 4)
        return F.scaled_dot_product_attention(x @ q, x @ k, x @ v).square().mean()

    def plainly(y: Tensor) -> Tensor:
        q, k, v = y.view(3, 4, 4)
        return (torch.softmax((x @ q) @ (x @ k).mT / 2, -1) @ (x @ v)).square().mean()

    y, v = randn(48), randn(48, seed=1)
    torch.testing.assert_close(expand(loss, y).hvp(v), expand(plainly, y).hvp(v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        third_derivative(loss, y, v, v), third_derivative(plainly, y, v, v), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_forward_difference_is_off_by_its_truncation_and_rounding_only(dtype, size):
    """The error is at most e |T(v, v)| / 2 + rounding of two gradients / e, whatever the length of v."""
    y, v = randn(N), size * randn(N, seed=1)
    gradient = lambda x: expand_once(bowl, x)[1]  # noqa: E731
    g = gradient(y)
    eps = torch.finfo(dtype).eps
    step = eps**0.5 * y.norm().clamp(min=1) / v.norm()
    truncation = step * third_derivative(bowl, y, v, v).norm() / 2
    rounding = 10 * eps * (g.norm() + expand(bowl, y).hvp(y).norm()) / step
    found = forward_difference(gradient, y.to(dtype), v.to(dtype), gradient(y.to(dtype))).double()
    assert (found - expand(bowl, y).hvp(v)).norm() < 2 * truncation + rounding


def test_forward_difference_along_nothing_is_nothing():
    y = randn(N)
    gradient = lambda x: expand_once(bowl, x)[1]  # noqa: E731
    assert not forward_difference(gradient, y, torch.zeros(N), gradient(y)).any()


def test_the_mean_of_potentials_is_the_potential_of_the_mean():
    def other(x: Tensor) -> Tensor:
        return torch.cos(x).sum() + x.prod()

    y, u, v = randn(N), randn(N, seed=1), randn(N, seed=2)
    mean, direct = Mean((Function(bowl), Function(other))), Function(lambda x: (bowl(x) + other(x)) / 2)
    assert_exact(mean.loss(y), direct.loss(y))
    assert_exact(mean.gradient(y), direct.gradient(y))
    assert_exact(mean.expansion(y).value, direct.loss(y))
    assert_exact(mean.expansion(y).gradient, direct.gradient(y))
    assert_exact(mean.expansion(y).hvp(v), direct.expansion(y).hvp(v))
    assert_exact(mean.third(y, u, v), direct.third(y, u, v))


def test_a_pinned_potential_evaluates_the_function_no_more():
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return bowl(x)

    y, v = randn(N), randn(N, seed=1)
    plain, pinned = Function(bowl), Pinned(Function(counted), expand(counted, y))
    assert torch.equal(pinned.gradient(y), plain.gradient(y))
    assert torch.equal(pinned.loss(y), plain.loss(y))
    assert torch.equal(pinned.expansion(y).hvp(v), plain.expansion(y).hvp(v))
    assert calls == 1
    assert torch.equal(pinned.third(y, v, v), plain.third(y, v, v))
