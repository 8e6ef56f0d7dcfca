"""Whether a step is too large for a field, as far as its linear part at the start tells."""

from typing import Any

import torch
from torch import Tensor

from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.field import State, VectorField
from eom.dynamics.sde import Sde
from eom.errors import EomWarning, warn_user
from eom.stochastic.langevin import Underdamped

ITERATIONS = 6  # of the power method, whose estimate comes from below
MARGIN = 1.05  # of the limit 2: an estimate by differences


def warn_of_stability(field: Any, y: State, h: float) -> None:
    """Warn where explicit steps of ``h`` from ``y`` [..., n] grow whatever the field does.

    With lambda the largest eigenvalue of the drift's Jacobian, |1 + h lambda| > 1 if h |lambda| > 2; leapfrog's limit
    is h sqrt |lambda| < 2 with the force's.
    """
    if isinstance(field, Sde):
        what, number = "h times the largest eigenvalue of the drift's Jacobian", h * slope(field.drift, y)
    elif isinstance(field, Underdamped) and y.shape[-1] % 2 == 0:
        what, number = "h times the largest frequency of the force", h * slope(field.force, y.chunk(2, -1)[0]) ** 0.5
    else:
        return
    if number > 2 * MARGIN:
        warn_user(
            f"the step h = {h:g} is too large for stability: {what} is {number:.3g} at the start, expected less than "
            f"2. What is found there is the scheme's and not the equation's; take h below {2 * h / number:.2g}",
            EomWarning,
        )


def slope(drift: VectorField, y: State) -> float:
    """Largest |eigenvalue| of D b at any member of ``y`` [..., n], by the power method on differences; nan as 0."""
    v = Brownian().next(Place(), 1.0, y, y.shape[-1])[0].w
    here, step = drift(0.0, y), torch.finfo(y.dtype).eps ** 0.5 * (1 + size(y))
    for _ in range(ITERATIONS):
        v = v / size(v).clamp(min=torch.finfo(y.dtype).tiny)
        v = (drift(0.0, y + step * v) - here) / step
    return float(size(v).nan_to_num(0.0, 0.0).max())


def size(v: Tensor) -> Tensor:
    """[..., 1] Euclidean norms."""
    return torch.linalg.vector_norm(v, dim=-1, keepdim=True)
