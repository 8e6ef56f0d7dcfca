"""Solutions and determinants by a factorisation whose factors are differentiated as well.

In torch 2.13 the tangents of these functions take theirs for constant: forward mode is wrong where it is nested. Each
has the arguments of the torch function of its name and equals it to rounding, but for singular matrices of more than
three rows, of which it is not finite.
"""

import torch
from torch import Tensor


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """A^-1 B, or B A^-1."""
    if B.ndim == 1 or B.shape == A.shape[:-1]:
        return _solved(A, B.unsqueeze(-1)).squeeze(-1)
    return _solved(A, B) if left else _solved(A.mT, B.mT).mT


def _solved(A: Tensor, B: Tensor) -> Tensor:
    """U^-1 L^-1 P^T B of columns."""
    permutation, lower, upper = torch.linalg.lu(A)
    inner = torch.linalg.solve_triangular(lower, permutation.mT @ B, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, inner, upper=True)


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    info = torch.linalg.solve_ex(A, B, left=left, check_errors=check_errors)[1]
    return torch.return_types.linalg_solve_ex((solve(A, B, left=left), info))  # type: ignore[attr-defined] - no stub


def tensorsolve(A: Tensor, B: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    if dims is not None:
        A = A.movedim(dims, tuple(range(A.ndim - len(dims), A.ndim)))
    return solve(A.reshape(B.numel(), -1), B.flatten()).view(A.shape[B.ndim :])


def slogdet(*A: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
    permutation, _, upper = torch.linalg.lu(*A, *named.values())
    pivots = upper.diagonal(dim1=-2, dim2=-1)
    sign = torch.det(permutation) * pivots.sgn().prod(-1)
    return torch.return_types.linalg_slogdet((sign, pivots.abs().log().sum(-1)))  # type: ignore[attr-defined] - no stub


def logdet(*A: Tensor, **named: Tensor) -> Tensor:
    sign, value = slogdet(*A, **named)
    return value + torch.log(sign) if sign.is_complex() else torch.where(sign < 0, torch.nan, value)


def det(*A: Tensor, **named: Tensor) -> Tensor:
    """Of up to three rows a polynomial, which has derivatives where it is 0."""
    (matrix,) = *A, *named.values()
    n = matrix.shape[-1]
    if 0 < n <= 3:
        first, rest = matrix[..., 0, :], matrix[..., 1:, :]
        if n == 1:
            return first[..., 0].clone()
        minors = [det(torch.cat([rest[..., :k], rest[..., k + 1 :]], -1)) for k in range(n)]
        return sum((-1) ** k * first[..., k] * minors[k] for k in range(1, n)) + first[..., 0] * minors[0]
    permutation, _, upper = torch.linalg.lu(matrix)
    return torch.det(permutation) * upper.diagonal(dim1=-2, dim2=-1).prod(-1)


def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """(L L^T)^-1."""
    unit = torch.eye(input.shape[-1], dtype=input.dtype, device=input.device)
    inverse = torch.linalg.solve_triangular(input.mH if upper else input, unit, upper=False)
    return inverse.mH @ inverse
