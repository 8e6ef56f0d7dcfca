"""The last layer of a learned law in closed form: residuals that are affine in parameters, and their least squares."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eom.errors import SettingError
from eom.physics.doors import accepted, require_fit
from eom.physics.limits import is_number
from eom.physics.models import LearnedSystem
from eom.physics.trajectories import Trajectories

NOT_AFFINE = (
    "the residuals are not affine in these parameters: give those of the last layer of an energy whose structure is "
    "not learned, or of a plain field"
)


def solve_linear(
    model: LearnedSystem, data: Trajectories, parameters: Sequence[Tensor], *, rcond: float = 1e-12
) -> float:
    """Set ``parameters``, in which residuals are affine, to the least squares of one step; returns the mean square.

    Of a model u' = G grad H with G given, the last layer of H is such: residuals are linear in H. What other layers
    compute, even untrained ones, serves as a basis, if they have biases (``dense`` has none at the start, and is odd):
    the solution is the global one, to rounding. Singular values below ``rcond`` of the largest, or lost in the model's
    floats, are left out.

    Raises:
        DataError: data that are not of this model. SettingError: residuals that are not affine in the parameters, or
        do not depend on them; an ``rcond`` out of its range. The parameters are then as before.
    """
    data = accepted(model, data)
    known = {id(x) for x in model.parameters()}
    if not parameters or not all(id(x) in known for x in parameters):
        raise SettingError("parameters are none, or not all of this model: give such as [energy.last.weight]")
    if not (is_number(rcond) and 0 <= rcond < 1):
        raise SettingError(f"rcond is {rcond!r}, expected a share of the largest singular value: 0 or more, below 1")
    window = require_fit(model, data, 1, 1, steps=1, every=1, batch=None, patience=None)
    before = [x.detach().clone() for x in parameters]
    with torch.no_grad():
        try:
            value = _least_squares(lambda: model.residual(window).flatten(), parameters, rcond)
        except Exception:
            for x, old in zip(parameters, before, strict=True):
                x.copy_(old)
            raise
    return value / window.u[:, 1:, 0].numel()


def _least_squares(residual: Callable[[], Tensor], parameters: Sequence[Tensor], rcond: float) -> float:
    """Sum of squares at the least squares, to which the parameters are set."""
    count, eps = sum(x.numel() for x in parameters), torch.finfo(parameters[0].dtype).eps

    def at(entries: Tensor) -> Tensor:
        for x, part in zip(parameters, entries.split([x.numel() for x in parameters]), strict=True):
            x.copy_(part.view_as(x))
        return residual().double()

    def moved(steps: Tensor) -> Tensor:
        return torch.stack([at(row) - start for row in torch.diag(steps)], 1)

    before = float(residual().double().square().sum())
    start = at(torch.zeros(count, dtype=torch.float64))
    far = float(start.norm()) or 1.0
    step = far / moved(torch.ones(count, dtype=torch.float64)).norm(dim=0).clamp(min=eps * far)
    step = torch.exp2(step.log2().round())  # changes residuals by as much as they are: no digits depend on units
    matrix = moved(step) / step
    size = matrix.norm(dim=0)
    seen = size > 1e-13 * size.max()  # a constant of an energy has no effect
    other = -2 * torch.where(seen, step, 1.0)
    off, parts = at(other) - start - matrix @ other, torch.cat([start, size * other])
    if not float(off.norm()) <= 1e-3 * float(parts.norm()):  # False for NaN
        raise SettingError(NOT_AFFINE)
    if not bool(seen.any()):
        raise SettingError(
            "the residuals do not depend on these parameters, such as a constant of an energy: give the weights too"
        )
    left, values, right = torch.linalg.svd(matrix[:, seen] / size[seen], full_matrices=False)
    kept = values > max(rcond, eps * count) * values[0]
    found = torch.zeros_like(size)
    found[seen] = -(right.T @ torch.where(kept, (left.T @ start) / values, 0.0)) / size[seen]
    value = float(at(found).square().sum())
    if value > before + 1e-6 * far**2:  # kinks are far from where it was tried
        raise SettingError(NOT_AFFINE)
    return value
