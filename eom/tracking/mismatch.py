"""How far a step was from gradient descent on the batch that it is said to descend, and what rounding explains."""

from typing import NamedTuple

import torch
from torch import Tensor

from eom.calculus.inner import norm
from eom.tracking.moment import Moment
from eom.tracking.observables import Derivative


class Mismatch(NamedTuple):
    """Of a step from -lr scale g.

    ``size`` is the difference as a share of the step, ``limit`` the share that rounding explains, ``turned`` the
    difference as a share of the gradient where the step is so small that rounding hides much, and ``rates`` [q] what
    the difference does to the observables per unit time.
    """

    size: float
    limit: float
    turned: float
    rates: Tensor

    @classmethod
    def of(cls, moment: Moment, gradient: Tensor, derivative: Derivative, rounding: float, *, own: bool) -> "Mismatch":
        """Of the step from the descent of ``gradient`` [n], which is the run's ``own``, or was computed again."""
        lr, theta, scale = moment.descent.lr, moment.theta.to(gradient), moment.descent.scale.to(gradient)
        missed = moment.after.to(gradient).sub_(theta).addcmul_(scale, gradient, value=lr)  # in little memory
        slope = float(norm(scale * gradient if scale.ndim else gradient)) * (1.0 if scale.ndim else float(scale))
        step = lr * slope
        size, rates = share(float(norm(missed)), step), derivative(missed).abs() / lr
        del missed  # before the next vector
        limit = rounding + adding(moment.theta, step)
        hidden = limit > 10 * rounding and not own
        turned = share(float(norm(moment.slope.to(gradient).addcmul_(scale, gradient))), slope) if hidden else 0.0
        return cls(size, limit, turned, rates)


def relative(difference: Tensor, step: Tensor) -> float:
    """Size of a difference, as a share of the step."""
    return share(float(norm(difference)), float(norm(step)))


def share(error: float, size: float) -> float:
    return error / size if size else (0.0 if error == 0 else torch.inf)


def adding(theta: Tensor, step: float) -> float:
    """Largest relative mismatch of a step of this length that rounding explains, as it is added to theta."""
    return 4 * torch.finfo(theta.dtype).eps * float(norm(theta)) / max(step, 1e-300)
