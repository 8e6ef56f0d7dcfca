"""Largest eigenvalues of a symmetric operator, with residuals."""

from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eom.calculus.inner import FEW, coordinates, norm
from eom.errors import LossNotFiniteError, SettingError

BROKEN = 100  # roundings of the operator's size: a residual below is none
FEWEST = 2  # products beyond k before a search may end: the start may lie near an eigenvector that is not wanted
TINY = np.finfo(float).tiny
SEVERAL, NEXT = 4, 0.1  # eigenvectors that another search begins from, and how much of those behind the first
ROOM = 40  # basis vectors beyond which the search starts again from the best ones


class Spectrum(NamedTuple):
    """Largest eigenvalues [k], descending; |A v - lambda v| of each [k]; unit eigenvectors [k, n].

    An eigenvalue lies within the residual r of each; ``errors`` [k] are estimates, min(r, r^2 / gap), where the gap is
    that to the nearest other Ritz value (Kato & Temple).
    """

    eigenvalues: Tensor
    residuals: Tensor
    vectors: Tensor
    errors: Tensor
    converged: bool  # all of these errors are as small as was asked for
    several: Tensor  # [n] the best vector with a part of the next ones, to begin another search from


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int = 1,
    *,
    rtol: float = 1e-6,
    steps: int = 100,
    room: int = ROOM,
) -> Spectrum:
    """The ``k`` algebraically largest eigenpairs by Lanczos with full reorthogonalisation and thick restarts.

    Stops when every wanted error, as estimated, is below ``rtol`` times the largest of these eigenvalues in size, or
    rounding, or after ``steps`` products. An eigenvector orthogonal to ``start`` is not seen, and two whose eigenvalues
    are closer than the residual count as one, unless the search comes to its end in few products.

    Args:
        product: [n] -> [n], symmetric.
        start: [n] any vector with a part along the wanted eigenvectors. steps: k products or more.
        room: vectors [n] held at once, k + 2 where it is less.

    Raises:
        SettingError: k outside 1 .. n, or fewer steps than k. LossNotFiniteError: a product is NaN or infinite.

    Source: Parlett, The Symmetric Eigenvalue Problem (1998), ch. 11 and 13; Wu & Simon, Thick-restart Lanczos method,
    SIAM J. Matrix Anal. Appl. 22(2), 2000.
    """
    n = start.numel()
    if type(k) is not int or not 1 <= k <= n:
        raise SettingError(f"k is {k!r}, expected a whole number between 1 and the dimension {n}")
    if type(steps) is not int or steps < k:
        raise SettingError(f"steps is {steps!r}, expected k = {k} products or more")
    if not (isinstance(rtol, Real) and 0 <= float(rtol) < np.inf):
        raise SettingError(f"rtol is {rtol!r}, expected a share of the largest eigenvalue, 0 or more")
    room = min(max(room, k + 2), steps, n)
    basis = start.new_empty((room, n))
    small = np.zeros((room, room))  # basis A basis^T, exactly tridiagonal until the first restart
    basis[0] = start / norm(start).to(start)
    m, ends, eps = 0, 0, torch.finfo(start.dtype).eps
    for done in range(1, steps + 1):
        m += 1
        w, along, beta = orthogonal(product(basis[m - 1]), basis[:m])
        if not np.isfinite(beta):
            raise LossNotFiniteError(f"product {done} with the operator is not finite: no eigenvalues can be had there")
        small[m - 1, :m] = small[:m, m - 1] = along.cpu().numpy()
        values, s = (x[..., ::-1] for x in np.linalg.eigh(small[:m, :m]))
        scale = np.abs(values).max()
        residuals = np.hypot(beta * s[-1], eps * scale)  # rounding is there always
        errors = residuals**2 / np.maximum(np.maximum(gaps(values), residuals), TINY)
        alone = beta <= BROKEN * eps * scale  # the basis holds all that the operator makes of it
        ends += alone  # each finds one more of equal eigenvalues
        wanted = max(rtol * np.abs(values[:k]).max(), BROKEN * eps * scale)
        converged = m >= min(k + FEWEST, n) and (ends >= k if ends else bool(errors[:k].max() <= wanted))
        converged = converged or (m >= k and ends >= k)
        if converged or done == steps or m == n:
            break
        q = another(basis[:m]) if alone else w.div_(beta)
        if m == room:  # the best vectors stay, and the search goes on along their common residual
            m = min(k + 1, room - 1)
            for part in basis.split(FEW, 1):
                part[:m] = combined(s[:, :m], part)
            small[:m, :m] = np.diag(values[:m])
        basis[m] = q
        del w, q  # before the next product, which may need the memory
    return Spectrum(
        *(torch.from_numpy(x[:k].copy()) for x in (values, residuals)),
        vectors=combined(s[:, :k], basis[:m]),
        errors=torch.from_numpy(errors[:k].copy()),
        converged=converged or m == n,
        several=combined(s[:, :1] + NEXT * s[:, 1:SEVERAL].sum(1, keepdims=True), basis[:m])[0],
    )


def another(basis: Tensor) -> Tensor:
    """A random unit vector [n] orthogonal to the basis [m, n]."""
    generator = torch.Generator().manual_seed(len(basis))
    v = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64).to(basis)
    rest, _, size = orthogonal(v, basis)
    return rest / size


def orthogonal(w: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, float]:
    """``w`` without its part in the basis [m, n], that part's coordinates [m] in float64, and the length of the rest.

    Between restarts all but rounding lies along the last two vectors, so that they go first.
    """
    w, along = w.clone(), w.new_zeros(len(basis), dtype=torch.float64)
    take(w, basis[-2:], along[-2:])
    for _ in range(3):  # a rest that is shorter than what was taken is rounding; twice is enough (Kahan)
        before = along.clone()
        take(w, basis, along)
        rest = norm(w).item()
        if (along - before).norm() <= rest:
            break
    return w, along, rest


def take(w: Tensor, basis: Tensor, along: Tensor) -> None:
    """Take from ``w`` its part in the basis [m, n], and add that part's coordinates to ``along`` [m]."""
    part = coordinates(basis, w)
    along += part
    w.addmv_(basis.T, part.to(w), alpha=-1)


def gaps(values: np.ndarray) -> np.ndarray:
    """Distance of each value to the nearest other one; 0 for one alone."""
    if len(values) == 1:
        return np.zeros(1)
    steps = np.abs(np.diff(values))
    return np.minimum(np.append(steps, np.inf), np.append(np.inf, steps))


def combined(weights: np.ndarray, basis: Tensor) -> Tensor:
    """Vectors [k, n] in the basis [m, n], ``weights`` [m, k]."""
    return torch.as_tensor(weights.T.copy(), dtype=basis.dtype, device=basis.device) @ basis
