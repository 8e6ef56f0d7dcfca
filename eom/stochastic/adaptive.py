"""RMSProp and Adam read as stochastic differential equations, in units of time eta^2 per step.

The gradient is grad L + sigma z with noise z of covariance Sigma and size sigma, the larger of the two. With
s = sigma eta, e = epsilon eta, c_i = (1 - beta_i) / eta^2 held fixed as eta falls, and u = v / sigma^2 the averaged
squares, the state (theta, u) or (theta, m, u) follows

    RMSProp   d theta = -P^-1 (grad L dt + s Sigma^(1/2) dW),  P = s sqrt u + e,  du = c_2 (diag Sigma - u) dt
    Adam      d theta = -(sqrt(gamma_2) / gamma_1) P^-1 m dt,  P = s sqrt u + e sqrt gamma_2,  gamma_i = 1 - e^{-c_i t}
              dm = c_1 ((grad L - m) dt + s Sigma^(1/2) dW),   du as above

Square-root rule: batches k times as large have the same equation with eta sqrt k, 1 - beta k times as large, and
epsilon / sqrt k. Source: Malladi, Lyu, Panigrahi & Arora, NeurIPS 2022, def. 4.3 and 4.5, and sec. 5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.dynamics.noise import LowRank
from eom.dynamics.sde import Sde
from eom.errors import SettingError

Gradient = Callable[[State], State]
AT_START = 1e-12  # of gamma: Adam's bias correction has no value at time 0


@dataclass(frozen=True)
class Adaptive:
    """Settings of RMSProp (``beta1`` 0) or Adam in torch's names, and ``sigma``, the size of the gradient's noise."""

    lr: float
    sigma: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name, value, most in (("lr", self.lr, math.inf), ("sigma", self.sigma, math.inf)):
            if not 0 < value < most:
                raise SettingError(f"{name} is {value}, expected a positive number")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise SettingError(f"{name} is {value}, expected a number from 0 to below 1")
        if not 0 <= self.eps < math.inf:
            raise SettingError(f"eps is {self.eps}, expected 0 or more")

    def scaled(self, k: float) -> "Adaptive":
        """For batches ``k`` times as large, by the square-root rule: the same equation, k times as far in one step.

        Raises:
            SettingError: k so large that a beta would be negative.
        """
        known = {name: 1 - getattr(self, name) for name in ("beta1", "beta2") if getattr(self, name)}
        most = 1 / max(known.values(), default=1.0)
        if not 0 < k <= most:
            raise SettingError(f"k is {k}, expected a positive number of at most {most:.3g}, where a beta comes to 0")
        root, betas = math.sqrt(k), {name: 1 - k * gap for name, gap in known.items()}
        return replace(self, lr=self.lr * root, sigma=self.sigma / root, eps=self.eps / root, **betas)

    @property
    def rates(self) -> tuple[float, float, float, float]:
        """s, e, c_1, c_2."""
        square = self.lr**2
        return self.sigma * self.lr, self.eps * self.lr, (1 - self.beta1) / square, (1 - self.beta2) / square


def rmsprop_sde(gradient: Gradient, root: Tensor, settings: Adaptive) -> Sde:
    """Of the state (theta, u) [..., 2 n], for noise of covariance ``root`` root^T, root [n, m]; one step is eta^2.

    Of a ``GradientNoise`` this is ``noise.root.T``.
    """
    s, e, _, c2 = settings.rates
    n, variance = len(root), root.square().sum(1)

    def drift(t: float, y: State) -> State:
        theta, u = parts(y, n, 2)
        return torch.cat([-gradient(theta) / (s * u.clamp(min=0).sqrt() + e), c2 * (variance - u)], -1)

    def moved(t: float, y: State, dw: Tensor) -> State:
        _, u = parts(y, n, 2)
        return torch.cat([-s * (dw @ root.T) / (s * u.clamp(min=0).sqrt() + e), torch.zeros_like(u)], -1)

    return Sde(drift, LowRank(moved, root.shape[1]))


def adam_sde(gradient: Gradient, root: Tensor, settings: Adaptive) -> Sde:
    """Of the state (theta, m, u) [..., 3 n], for noise of covariance ``root`` root^T, root [n, m]; one step is eta^2.

    The equation holds for times of many steps: at 0, where Adam divides 0 by 0, theta is held.
    """
    s, e, c1, c2 = settings.rates
    n, variance = len(root), root.square().sum(1)

    def drift(t: float, y: State) -> State:
        theta, m, u = parts(y, n, 3)
        first, second = (max(-math.expm1(-c * t), AT_START) for c in (c1, c2))
        p = s * u.clamp(min=0).sqrt() + e * math.sqrt(second)
        moved = -math.sqrt(second) / first * m / p if t > 0 else torch.zeros_like(m)
        return torch.cat([moved, c1 * (gradient(theta) - m), c2 * (variance - u)], -1)

    def moved(t: float, y: State, dw: Tensor) -> State:
        still = torch.zeros_like(y[..., :n])
        return torch.cat([still, c1 * s * (dw @ root.T), still], -1)

    return Sde(drift, LowRank(moved, root.shape[1]))


def parts(y: State, n: int, count: int) -> tuple[Tensor, ...]:
    """The ``count`` parts [..., n] of a state."""
    if y.shape[-1] != count * n:
        raise SettingError(f"the state has {y.shape[-1]} entries and the root {n} rows, expected {count} times as many")
    return y.split(n, -1)
