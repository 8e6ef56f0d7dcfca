"""Solutions and determinants by a factorisation whose factors are differentiated as well.

In torch 2.13 the tangents of these functions take theirs for constant: forward mode is wrong where it is nested. Each
has the arguments of the torch function of its name and equals it to rounding, but for singular matrices, of which it
is not finite.
"""

import torch
from torch import Tensor


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """A^-1 B = U^-1 L^-1 P^T B, or B A^-1."""
    if B.ndim == 1 or B.shape == A.shape[:-1]:
        return solve(A, B.unsqueeze(-1), left=True).squeeze(-1)
    if not left:
        return solve(A.mT, B.mT).mT
    permutation, lower, upper = torch.linalg.lu(A)
    inner = torch.linalg.solve_triangular(lower, permutation.mT @ B, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, inner, upper=True)


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    return solve(A, B, left=left), torch.linalg.solve_ex(A, B, left=left, check_errors=check_errors)[1]


def tensorsolve(A: Tensor, B: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    if dims is not None:
        A = A.movedim(dims, tuple(range(A.ndim - len(dims), A.ndim)))
    return solve(A.reshape(B.numel(), -1), B.flatten()).view(A.shape[B.ndim :])


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    permutation, _, upper = torch.linalg.lu(A)
    pivots = upper.diagonal(dim1=-2, dim2=-1)
    return torch.det(permutation) * pivots.sgn().prod(-1), pivots.abs().log().sum(-1)


def det(A: Tensor) -> Tensor:
    permutation, _, upper = torch.linalg.lu(A)
    return torch.det(permutation) * upper.diagonal(dim1=-2, dim2=-1).prod(-1)


def logdet(A: Tensor) -> Tensor:
    return torch.log(det(A))


def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """(L L^T)^-1."""
    lower = L.mH if upper else L
    inverse = torch.linalg.solve_triangular(lower, torch.eye(L.shape[-1], dtype=L.dtype, device=L.device), upper=False)
    return inverse.mH @ inverse
