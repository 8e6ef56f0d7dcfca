"""Largest eigenvalues by Lanczos against dense eigenvalues, with residuals that can be believed."""

import math

import numpy as np
import pytest
import torch
from problems import randn, symmetric
from torch import Tensor

from eom.calculus.spectrum import Spectrum, lanczos, orthogonal
from eom.errors import LossNotFiniteError, SettingError

SPREAD = [10.0, 9.0, 5.0, 4.9, 1.0, 0.5, 0.1, 0.0, -3.0, -12.0]


def largest(matrix: Tensor, k: int) -> Tensor:
    return torch.from_numpy(np.linalg.eigvalsh(matrix.numpy())[::-1][:k].copy())


def solve(matrix: Tensor, k: int, **settings) -> Spectrum:
    return lanczos(lambda v: matrix @ v, randn(len(matrix), seed=9), k, **settings)


def true_residuals(matrix: Tensor, found: Spectrum) -> Tensor:
    return torch.stack([(matrix @ v - x * v).norm() for x, v in zip(found.eigenvalues, found.vectors, strict=True)])


@pytest.mark.parametrize("k", range(1, 6))
def test_the_largest_eigenvalues_are_the_dense_ones(k):
    matrix = symmetric(SPREAD)
    found = solve(matrix, k, rtol=1e-12)
    torch.testing.assert_close(found.eigenvalues, largest(matrix, k), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("n", [40, 120])
def test_residuals_are_those_of_the_returned_vectors(n, k):
    """Stopped early, where residuals are far above rounding, they still are what A v - lambda v says."""
    a = randn(n, n, seed=n)
    matrix = (a + a.T) / 2
    found = solve(matrix, k, rtol=1e-3)
    assert found.eigenvalues.shape == found.residuals.shape == (k,)
    torch.testing.assert_close(found.residuals, true_residuals(matrix, found), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(k), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
def test_each_eigenvalue_is_within_its_residual_of_a_dense_one(rtol):
    a = randn(80, 80, seed=1)
    matrix = (a + a.T) / 2
    found = solve(matrix, 3, rtol=rtol)
    dense = torch.linalg.eigvalsh(matrix)
    distance = (found.eigenvalues[:, None] - dense).abs().min(1).values
    assert (distance <= found.residuals + 1e-12).all()
    assert (found.errors <= rtol * dense.abs().max()).all()
    assert ((found.eigenvalues - largest(matrix, 3)).abs() <= rtol * dense.abs().max()).all()


@pytest.mark.parametrize("room", [5, 8, 20])
def test_with_little_room_the_search_starts_again_from_the_best_vectors_and_finds_the_same(room):
    a = randn(120, 120, seed=1)
    matrix = (a + a.T) / 2
    found = solve(matrix, 3, rtol=1e-10, steps=1000, room=room)
    torch.testing.assert_close(found.eigenvalues, largest(matrix, 3), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(found.residuals, true_residuals(matrix, found), rtol=1e-3, atol=1e-10)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(3), rtol=0.0, atol=1e-12)


def test_a_room_without_space_to_search_in_is_made_larger():
    matrix = symmetric(SPREAD)
    assert torch.equal(solve(matrix, 3, room=4).eigenvalues, solve(matrix, 3, room=5).eigenvalues)


def test_a_vector_almost_inside_the_basis_is_orthogonal_to_it_all_the_same():
    basis = torch.linalg.qr(randn(50, 6)).Q.T.contiguous()
    inside = basis.T @ randn(6, seed=2)
    w, along, length = orthogonal(inside + 1e-9 * randn(50, seed=3), basis)
    assert length == pytest.approx(w.norm().item(), rel=1e-15)
    assert (basis @ w).abs().max() < 1e-15 * w.norm() * 50
    torch.testing.assert_close(basis.T @ along + w, inside + 1e-9 * randn(50, seed=3), rtol=0.0, atol=1e-14)


def test_a_budget_of_steps_that_is_too_small_shows_in_the_residuals():
    a = randn(80, 80, seed=1)
    found = solve((a + a.T) / 2, 1, rtol=1e-10, steps=5)
    assert found.residuals[0] > 1e-3
    torch.testing.assert_close(found.residuals, true_residuals((a + a.T) / 2, found), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_degenerate_eigenvalue_is_found_as_often_as_it_is_there(k):
    matrix = symmetric([2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    found = solve(matrix, k)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([2.0, 2.0, 2.0, 1.0])[:k], rtol=0.0, atol=1e-12)
    assert (true_residuals(matrix, found) < 1e-12).all()


def test_a_rank_deficient_operator_ends_the_search_early():
    u, v = torch.linalg.qr(randn(30, 2)).Q.T
    matrix = 3 * torch.outer(u, u) - 2 * torch.outer(v, v)
    found = solve(matrix, 2)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([3.0, 0.0]), rtol=0.0, atol=1e-12)
    assert (true_residuals(matrix, found) < 1e-12).all()


@pytest.mark.parametrize("factor", [0.0, 1.0, -4.0])
def test_multiples_of_the_identity_take_one_product(factor):
    products = 0

    def product(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return factor * v

    found = lanczos(product, randn(6))
    assert found.eigenvalues.tolist() == pytest.approx([factor], abs=1e-15)
    assert products == 1


def test_more_steps_than_dimensions_give_the_whole_spectrum():
    matrix = symmetric([3.0, 1.0, -1.0, -2.0])
    found = solve(matrix, 4, rtol=0.0, steps=500)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([3.0, 1.0, -1.0, -2.0]), rtol=0.0, atol=1e-12)


def test_a_dimension_of_one_is_its_own_eigenvalue():
    assert lanczos(lambda v: -7 * v, torch.ones(1)).eigenvalues.tolist() == [-7.0]


def test_an_operator_in_float32_is_solved_in_float32():
    matrix = symmetric(SPREAD).float()
    found = lanczos(lambda v: matrix @ v, randn(10).float(), 2)
    assert found.vectors.dtype == torch.float32
    torch.testing.assert_close(found.eigenvalues, torch.tensor([10.0, 9.0]), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("k", [0, -1, 11])
def test_a_number_of_eigenvalues_outside_the_dimension_is_refused(k):
    with pytest.raises(SettingError, match=rf"k is {k}, expected a whole number between 1 and the dimension 10"):
        solve(symmetric(SPREAD), k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_far_from_zero_are_found_as_well_as_those_about_it(dtype):
    """Where each product is mostly along the basis, and what is left of it mostly rounding."""
    for diagonal in (torch.linspace(1, 5, 100, dtype=dtype), 100 + torch.linspace(0, 1, 50, dtype=dtype)):
        found = lanczos(lambda v, d=diagonal: d * v, torch.ones_like(diagonal), 2, rtol=1e-5, steps=90)
        wanted = diagonal.flip(0)[:2].double()
        assert found.eigenvalues.tolist() == pytest.approx(wanted.tolist(), rel=2e-5)


def test_as_many_eigenvalues_as_wanted_come_from_an_operator_with_few_of_them():
    start = torch.randn(8)
    assert lanczos(lambda v: v, start, 3).eigenvalues.tolist() == pytest.approx([1, 1, 1])
    assert lanczos(lambda v: 0 * v, start, 3).eigenvalues.tolist() == [0, 0, 0]
    diagonal = torch.tensor([5.0, 5, 5, 5, 1, 1, 1, 1])
    assert lanczos(lambda v: diagonal * v, start, 4).eigenvalues.tolist() == pytest.approx([5, 5, 5, 5])
    diagonal = torch.tensor([1.0, -5, 0, 0, 0, 0, 0, 0])
    assert lanczos(lambda v: diagonal * v, start, 3).eigenvalues.tolist() == pytest.approx([1, 0, 0], abs=1e-6)


@pytest.mark.parametrize("settings", [{"steps": 2.5}, {"steps": None}, {"rtol": math.nan}, {"rtol": -1}, {"rtol": "a"}])
def test_settings_that_are_no_numbers_are_refused(settings):
    (name,) = settings
    with pytest.raises(SettingError, match=f"{name} is "):
        lanczos(lambda v: v, torch.randn(8), **settings)


def test_fewer_products_than_eigenvalues_are_refused():
    with pytest.raises(SettingError, match="steps is 2, expected k = 3 products or more"):
        lanczos(lambda v: v, torch.randn(8), 3, steps=2)


def test_a_product_that_is_not_finite_is_said_to_be_so():
    with pytest.raises(LossNotFiniteError, match="product 1 with the operator is not finite"):
        lanczos(lambda v: v * torch.nan, torch.randn(8))
