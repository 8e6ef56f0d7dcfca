"""Largest eigenvalues of a symmetric operator, with residuals."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from eom.errors import SettingError


class Spectrum(NamedTuple):
    """Largest eigenvalues [k], descending; |A v - lambda v| of each [k]; unit eigenvectors [k, n]."""

    eigenvalues: Tensor
    residuals: Tensor
    vectors: Tensor


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int = 1, *, rtol: float = 1e-6, steps: int = 100
) -> Spectrum:
    """The ``k`` algebraically largest eigenpairs by Lanczos with full reorthogonalisation.

    Stops when every wanted residual is below ``rtol`` times the largest |Ritz value|, or after ``steps``
    products; the residuals say which. An eigenvector orthogonal to ``start`` is not seen.

    Args:
        product: [n] -> [n], symmetric.
        start: [n] any vector with a part along the wanted eigenvectors.

    Source: Parlett, The Symmetric Eigenvalue Problem (1998), ch. 13.
    """
    n = start.numel()
    if not 1 <= k <= n:
        raise SettingError(f"k is {k}, expected between 1 and the dimension {n}")
    steps = min(steps, n)
    basis = torch.empty((steps, n), dtype=start.dtype, device=start.device)
    alpha: list[float] = []
    beta: list[float] = []
    q = start / start.norm()
    while True:
        m = len(alpha)
        basis[m] = q
        w = product(q)
        alpha.append((q @ w).item())
        for _ in range(2):  # twice is enough (Kahan)
            w = w - basis[: m + 1].T @ (basis[: m + 1] @ w)
        beta.append(w.norm().item())
        values, s = eigh_tridiagonal(alpha, beta[:-1])
        wanted = range(len(values) - 1, max(len(values) - 1 - k, -1), -1)
        residuals = [abs(beta[-1] * s[-1, i]) for i in wanted]
        scale = max(abs(values[0]), abs(values[-1]))
        exhausted = m + 1 == steps or beta[-1] <= 1e-14 * scale
        if (m + 1 >= k and max(residuals) <= rtol * scale) or exhausted:
            break
        q = w / beta[-1]
    weights = torch.as_tensor(s[:, list(wanted)].T.copy(), dtype=start.dtype, device=start.device)
    return Spectrum(
        torch.tensor([values[i] for i in wanted], dtype=torch.float64),
        torch.tensor(residuals, dtype=torch.float64),
        weights @ basis[: m + 1],
    )
