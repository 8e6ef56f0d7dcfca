"""Stochastic gradient descent read as a stochastic differential equation.

With learning rate eta, batches of B and Sigma_B the covariance of their gradient, in units of time eta per step:

    order 1   dX = -grad L dt + sqrt(eta Sigma_B) dW
    order 2   dX = -grad (L + (eta/4) |grad L|^2) dt + sqrt(eta Sigma_B) dW

whose weak errors over a fixed time are O(eta) and O(eta^2). Gradient flow alone has O(eta) too: a slope does not show
that the noise helps, the size of the error does.

Source: Li, Tai & E, J. Mach. Learn. Res. 20(40), 2019, thm. 9; temperature: Mandt, Hoffman & Blei, JMLR 18(134), 2017.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.dynamics.correction import corrected
from eom.dynamics.field import VectorField, gradient_flow
from eom.dynamics.noise import Additive, LowRank
from eom.dynamics.runge_kutta import Euler
from eom.dynamics.sde import Sde
from eom.errors import SettingError
from eom.objective import Objective
from eom.stochastic.batches import each
from eom.stochastic.covariance import noise_of


def sgd_sde(
    objective: Objective,
    lr: float,
    batch_size: int,
    *,
    order: int = 1,
    replacement: bool = False,
    frozen: bool = False,
) -> Sde:
    """The stochastic modified equation of SGD on an objective whose data is all there is.

    Args:
        lr: learning rate eta. batch_size: B. order: 1 or 2. replacement: whether batches are drawn with it.
        frozen: keep the noise of the present parameters; otherwise every step computes the gradients of all samples.

    Raises:
        SettingError: an order, rate or size outside what it may be.
        LossNotDifferentiableError: a sample has no gradient of its own.
    """
    if order not in (1, 2):
        raise SettingError(f"order is {order!r}, expected 1 or 2")
    if not (math.isfinite(lr) and lr > 0):
        raise SettingError(f"lr is {lr}, expected a positive number")
    here = noise_of(objective)
    size = math.sqrt(lr * here.share(batch_size, replacement))
    drift = Batched(corrected(gradient_flow(objective), Euler(), lr, order - 1))
    if frozen:
        return Sde(drift, Additive(size * here.root.T))
    return Sde(drift, LowRank(lambda t, y, dw: size * shaken(objective, y, dw), here.samples))


@dataclass(frozen=True)
class Batched:
    """A field of one state [n], for [..., n]."""

    field: VectorField

    def __call__(self, t: float, y: Tensor) -> Tensor:
        return each(lambda _, x: self.field(t, x), y)


def shaken(objective: Objective, y: Tensor, dw: Tensor) -> Tensor:
    """sum_i (g_i - g) dw_i / sqrt N at ``y`` [..., n] for ``dw`` [..., N]."""
    if y.ndim == 1:
        return noise_of(objective, y)(dw)
    return torch.stack([shaken(objective, x, w) for x, w in zip(y, dw, strict=True)])


def temperature(lr: float, batch_size: int) -> float:
    """eta / (2 B): SGD near a minimum whose Hessian is Sigma samples exp(-L / T) at this T, to first order in eta."""
    if not (lr > 0 and batch_size >= 1):
        raise SettingError(f"lr is {lr} and batch_size {batch_size}, expected a positive number, and 1 or more")
    return lr / (2 * batch_size)
