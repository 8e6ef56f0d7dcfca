"""Derivatives in forward mode, nested up to the fourth, against those of the same function written out, in reverse."""

from collections.abc import Callable

import pytest
import torch
from problems import randn
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from eom.calculus import solutions
from eom.calculus.lie import directional

Number = Callable[[Tensor], Tensor]
W, WEIGHTS = randn(5, 2), randn(2, seed=1)
AT, ALONG = randn(2, seed=2), randn(2, seed=3)


def matrix(x: Tensor) -> Tensor:
    """[2, 2], far from singular."""
    rows = torch.stack([2 + torch.cos(x[0]), 0.3 * x[1]]), torch.stack([0.2 * torch.sin(x[1]), 3 + torch.tanh(x[0])])
    return torch.stack(rows)


def symmetric(x: Tensor) -> Tensor:
    return matrix(x) @ matrix(x).T


def determinant(m: Tensor) -> Tensor:
    return m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]


def inverse(m: Tensor) -> Tensor:
    return torch.stack([torch.stack([m[1, 1], -m[0, 1]]), torch.stack([-m[1, 0], m[0, 0]])]) / determinant(m)


def solved(x: Tensor) -> Tensor:
    return WEIGHTS @ inverse(matrix(x)) @ x


def standardized(x: Tensor) -> Tensor:
    y = W @ x - (W @ x).mean()
    return (y / torch.sqrt((y * y).mean() + 1e-5)).pow(3).sum()


CASES: dict[str, tuple[Number, Number]] = {
    "solve": (lambda x: WEIGHTS @ torch.linalg.solve(matrix(x), x), solved),
    "solve, a column": (lambda x: WEIGHTS @ torch.linalg.solve(matrix(x), x[:, None])[:, 0], solved),
    "solve from the right": (lambda x: torch.linalg.solve(matrix(x), WEIGHTS[None], left=False)[0] @ x, solved),
    "solve_ex": (lambda x: WEIGHTS @ torch.linalg.solve_ex(matrix(x), x)[0], solved),
    "tensorsolve": (lambda x: WEIGHTS @ torch.linalg.tensorsolve(matrix(x), x), solved),
    "det": (lambda x: torch.linalg.det(matrix(x)), lambda x: determinant(matrix(x))),
    "det of a tensor": (lambda x: matrix(x).flip(0).det(), lambda x: -determinant(matrix(x))),
    "logdet": (lambda x: torch.logdet(matrix(x)), lambda x: torch.log(determinant(matrix(x)))),
    "slogdet": (lambda x: torch.linalg.slogdet(-matrix(x))[1], lambda x: torch.log(determinant(matrix(x)))),
    "inverse by Cholesky": (
        lambda x: torch.cholesky_inverse(torch.linalg.cholesky(symmetric(x))).sum(),
        lambda x: inverse(symmetric(x)).sum(),
    ),
    "layer norm": (lambda x: F.layer_norm(W @ x, (5,)).pow(3).sum(), standardized),
    "instance norm": (lambda x: F.instance_norm((W @ x)[None, None]).pow(3).sum(), standardized),
    "gate": (
        lambda x: F.glu(torch.cat([x, W[:2] @ x]), 0).pow(2).sum(),
        lambda x: (x / (1 + torch.exp(-(W[:2] @ x)))).pow(2).sum(),
    ),
    "distances": (lambda x: torch.cdist(x[None], W).pow(3).sum(), lambda x: (x - W).square().sum(1).pow(1.5).sum()),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_derivatives_are_those_of_the_function_written_out(name):
    forwards, backwards = CASES[name]
    for _ in range(4):
        forwards = lambda x, f=forwards: directional(f, x, ALONG)  # noqa: E731 - one is made of the one before
        backwards = lambda x, f=backwards: grad(f)(x) @ ALONG  # noqa: E731 - as above
        torch.testing.assert_close(forwards(AT), backwards(AT), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3)], ids=["a matrix", "a batch"])
def test_solutions_are_torchs_own(shape):
    a = randn(*shape) + 3 * torch.eye(3, dtype=torch.float64)
    vectors, columns = randn(*shape[:-1], seed=1), randn(*shape[:-1], 4, seed=2)
    wide = randn(*shape[:-2], 5, 5, seed=3)
    pairs = [
        (solutions.solve(a, vectors), torch.linalg.solve(a, vectors)),
        (solutions.solve(a, columns), torch.linalg.solve(a, columns)),
        (solutions.solve(a, columns.mT, left=False), torch.linalg.solve(a, columns.mT, left=False)),
        *zip(solutions.solve_ex(a, columns), torch.linalg.solve_ex(a, columns), strict=True),
        (solutions.solve(a[..., :1, :1], vectors[..., :1]), torch.linalg.solve(a[..., :1, :1], vectors[..., :1])),
        *((solutions.det(-a[..., :n, :n]), torch.det(-a[..., :n, :n])) for n in (1, 2, 3)),
        (solutions.det(wide), torch.det(wide)),
        (solutions.logdet(a @ a.mT), torch.logdet(a @ a.mT)),
        *zip(solutions.slogdet(-a), torch.slogdet(-a), strict=True),
        (solutions.cholesky_inverse(a.tril()), torch.cholesky_inverse(a.tril())),
        (solutions.cholesky_inverse(a.triu(), True), torch.cholesky_inverse(a.triu(), True)),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_determinants_have_rates_far_from_one_and_where_they_are_zero():
    """ln det exp(diag y) = sum y; q x p of motions that start at rest, where both rows are parallel."""
    y = torch.full((200,), -5.0, dtype=torch.float64)
    found = directional(lambda x: torch.logdet(torch.diag(torch.exp(x))), y, -y)
    torch.testing.assert_close(found, -y.sum(), rtol=1e-12, atol=0)
    here, there = torch.tensor([1.0, 0.0, 0.0, 0.0]).double(), torch.tensor([0.5, -1.0, 1.0, 2.0]).double()
    turning = directional(lambda x: torch.linalg.det(x.view(2, 2)), here, there)
    assert float(turning) == 2.0

    def hermitian(x: Tensor) -> Tensor:  # det = 1 - x^2 / 4
        zero = 0 * x
        rows = torch.stack([torch.stack([zero, x]), torch.stack([-x, zero])])
        return torch.logdet(torch.eye(2, dtype=torch.complex128) + 0.5j * rows).real

    x = torch.tensor(0.5, dtype=torch.float64)
    slope = directional(hermitian, x, torch.ones_like(x))
    torch.testing.assert_close(slope, -(x / 2) / (1 - x**2 / 4), rtol=1e-12, atol=0)

    def written_to(x: Tensor) -> Tensor:  # (2 + x^2) (1 + x^2)
        a = (1 + x**2).view(1, 1)
        d = torch.det(a)
        d += 1
        return d * a.sum()

    torch.testing.assert_close(directional(written_to, x, torch.ones_like(x)), 2 * x * (3 + 2 * x**2))
    assert bool(torch.logdet(-torch.eye(3)).isnan())
    assert bool(solutions.logdet(-torch.eye(3)).isnan())


def test_results_have_their_names_and_arguments_torchs():
    def number(x: Tensor) -> Tensor:
        a = matrix(x)
        found = torch.linalg.slogdet(a).logabsdet + torch.linalg.solve_ex(a, x).result.sum() + a.slogdet().logabsdet
        return found + torch.det(input=a) + torch.logdet(input=a) + torch.cholesky_inverse(input=a.tril()).sum()

    at = AT.clone().requires_grad_()
    (slope,) = torch.autograd.grad(number(at), at)
    torch.testing.assert_close(directional(number, AT, ALONG), slope @ ALONG, rtol=1e-12, atol=1e-12)


def test_solutions_of_tensors_are_torchs_own():
    a, b = randn(2, 6, 3, 4), randn(2, 6, seed=1)
    moved = a.movedim(2, 0)  # [3, 2, 6, 4]
    for found, wanted in (
        (solutions.tensorsolve(a, b), torch.linalg.tensorsolve(a, b)),
        (solutions.tensorsolve(moved, b, (0, 3)), torch.linalg.tensorsolve(moved, b, (0, 3))),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
