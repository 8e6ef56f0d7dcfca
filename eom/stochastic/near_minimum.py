"""The stationary law near a minimum: where friction of the Hessian and noise of the batches balance.

Of dX = -H (X - x) dt + sqrt(eta Sigma) dW the covariance S solves H S + S H = eta Sigma (Lyapunov); of SGD itself,
X <- X - eta H (X - x) + eta noise, it solves S = (1 - eta H) S (1 - eta H) + eta^2 Sigma. They agree for small eta H.

Source: Mandt, Hoffman & Blei, J. Mach. Learn. Res. 18(134), 2017, sec. 3.2.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from torch import Tensor

from eom.dynamics.noise import of_covariance
from eom.errors import ExplosionError, SettingError
from eom.stochastic.diagnostics import mixing


def ou_covariance(hessian: Tensor, noise: Tensor, lr: float) -> Tensor:
    """[k, k] S of the SDE: H S + S H = eta Sigma, for H and Sigma [k, k] on the directions of interest.

    Raises:
        ExplosionError: H has an eigenvalue that is not positive, along which nothing holds the process.
        NoiseError: Sigma is no covariance. SettingError: H is not symmetric, a learning rate that is not positive.
    """
    _require_held(hessian, noise, lr)
    return torch.from_numpy(solve_continuous_lyapunov(hessian.numpy(), lr * noise.numpy()))


def sgd_covariance(hessian: Tensor, noise: Tensor, lr: float) -> Tensor:
    """[k, k] S of SGD with learning rate eta, exactly for a quadratic loss with noise that does not depend on place.

    Raises:
        ExplosionError: eta H has an eigenvalue of 2 or more, or H one that is not positive.
    """
    largest = float(_require_held(hessian, noise, lr)[-1])
    if lr * largest >= 2:
        raise ExplosionError(
            f"lr times the largest eigenvalue is {lr * largest:.3g}, expected less than 2: from there on SGD "
            "leaves the minimum"
        )
    step = np.eye(len(hessian)) - lr * hessian.numpy()
    return torch.from_numpy(solve_discrete_lyapunov(step, lr**2 * noise.numpy()))


def _require_held(hessian: Tensor, noise: Tensor, lr: float) -> Tensor:
    if not (math.isfinite(lr) and lr > 0):
        raise SettingError(f"lr is {lr}, expected a positive number")
    of_covariance(noise)  # raises where it is none
    if hessian.shape != noise.shape or not torch.allclose(hessian, hessian.T):
        raise SettingError(f"the Hessian is {list(hessian.shape)}, expected a symmetric {list(noise.shape)}")
    values = torch.linalg.eigvalsh(hessian)
    if float(values[0]) <= 0:
        raise ExplosionError(
            f"the Hessian has the eigenvalue {float(values[0]):.3g}, along which nothing holds the process: pass it on "
            "the directions where it is positive, Q.T @ H @ Q"
        )
    return values


class Against(NamedTuple):
    """Variances [k] along directions, of a run with the half-widths of their 95 % intervals, and of the law."""

    run: Tensor
    bar: Tensor
    law: Tensor


def against_run(iterates: Tensor, directions: Tensor, covariance: Tensor) -> Against:
    """A run's own variances along ``directions`` [k, n] beside those of a ``covariance`` [k, k].

    Args:
        iterates: [steps, n], or [steps, chains, n], of a run that has become stationary. The intervals know of their
            correlation, by the effective sample size of the squares.
    """
    if iterates.ndim == 2:  # halves of a run stand for two chains
        half = len(iterates) // 2
        iterates = torch.stack([iterates[:half], iterates[half : 2 * half]], 1)
    if iterates.shape[-1] != directions.shape[-1]:
        raise SettingError(f"iterates end in {iterates.shape[-1]} entries and directions in {directions.shape[-1]}")
    along = iterates @ directions.T
    squares = (along - along.mean((0, 1))).square()
    found = mixing(squares)
    return Against(torch.from_numpy(found.mean), 1.96 * torch.from_numpy(found.error), covariance.diagonal())
