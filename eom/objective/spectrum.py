"""The sharpness of an objective: its largest Hessian eigenvalues."""

from typing import NamedTuple

import torch
from torch import Tensor

from eom.calculus.potentials import Potential
from eom.calculus.spectrum import lanczos
from eom.errors import EomWarning, SettingError, warn_user


class Sharpness(NamedTuple):
    """Largest eigenvalues [k], descending, and the residual |H v - lambda v| of each [k]."""

    eigenvalues: Tensor
    residuals: Tensor


def sharpness(
    objective: Potential,
    k: int = 1,
    *,
    theta: Tensor | None = None,
    rtol: float = 1e-6,
    steps: int = 200,
    seed: int = 0,
) -> Sharpness:
    """The ``k`` algebraically largest Hessian eigenvalues, by Lanczos on one kept graph.

    Gradient descent with learning rate eta is at the edge of stability where eta lambda_max = 2; the log map's series
    converges while eta lambda < 1 for every excited mode.

    Args:
        objective: an ``eom.Objective``. theta: [n] the point, the present parameters by default.
        rtol: error wanted, as estimated from residuals and gaps, relative to the largest eigenvalue found in size.
        steps: products allowed.
        seed: of the random start vector.

    Of eigenvalues that lie closer together than the residuals, one may stand for several.

    Raises:
        SettingError: k outside 1 .. n, fewer steps than k, or another argument outside what it may be.
        LossNotFiniteError: a product H v is NaN or infinite.

    Warns:
        EomWarning: an error wanted was not reached.
    """
    if not hasattr(objective, "expansion"):
        raise SettingError(f"objective is a {type(objective).__name__}, expected an eom.Objective")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise SettingError(f"seed is {seed!r}, expected a whole number, 0 or more")
    if theta is not None and not isinstance(theta, Tensor):
        raise SettingError(f"theta is a {type(theta).__name__}, expected a tensor [n]")
    at: Tensor = objective.theta() if theta is None else theta  # type: ignore[attr-defined] - Objective
    if (shards := getattr(objective, "shards", None)) is not None:
        shards.same(f"sharpness(k={k!r}, rtol={rtol!r}, steps={steps!r}, seed={seed!r})", "theta", at)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(at.shape, generator=generator, dtype=torch.float64).to(at)
    found = lanczos(objective.expansion(at).hvp, start, k, rtol=rtol, steps=steps)
    if not found.converged:
        missed = int((found.errors > rtol * found.eigenvalues.abs().max()).sum())
        warn_user(
            f"{missed} of {k} eigenvalues are not known to {rtol:.2g} after {steps} products, their residuals are up "
            f"to {float(found.residuals.max()):.2g}: allow more with steps=, or take a larger rtol",
            EomWarning,
        )
    return Sharpness(found.eigenvalues, found.residuals)
