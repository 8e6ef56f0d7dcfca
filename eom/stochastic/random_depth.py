"""Networks of random branches as weak schemes in depth: which stochastic equation they follow, and which they do not.

One block is x <- x + h b(x) + r zeta d(x) with zeta of mean 0 and variance 1. For shake-shake, eta uniform on (0, 1):

    x + eta F1 + (1 - eta) F2 = x + (F1 + F2) / 2 + (eta - 1/2)(F1 - F2),   zeta = sqrt 12 (eta - 1/2).

Diffusive scaling, F_{1,2} = h b +- (sqrt h / 2) d, follows the Ito equation dX = b dt + d / sqrt 12 dW with weak order
1 as the depth grows. Literal scaling, F_i = h f_i, follows the ODE of b = (f1 + f2) / 2: noise of size sqrt(h / 12)(f1
- f2) belongs to its modified equation, with the drift b - (h / 2) b'b of Euler's. One eta for a sample is one Brownian
motion for all of its entries. Stochastic depth has a zeta of skewness (1 - 2 p) / sqrt(p (1 - p)), whose weak error is
sqrt h unless that vanishes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eom.dynamics.field import State, derivative
from eom.dynamics.noise import Additive, Scalar
from eom.dynamics.order import Ladder, ladder
from eom.dynamics.sde import Sde
from eom.dynamics.transfer import Circle, semigroup, transfer
from eom.errors import SettingError

Coefficient = Callable[[State], State]
SHAKE = 1 / math.sqrt(12)  # standard deviation of eta


class Law(NamedTuple):
    """Values [q] of a random number zeta of mean 0 and variance 1, and their chances [q]."""

    values: Tensor
    chances: Tensor


def uniform_law(points: int = 8) -> Law:
    """zeta = sqrt 12 (eta - 1/2), by Gauss-Legendre nodes: exact to degree 2 ``points`` - 1."""
    if type(points) is not int or points < 2:
        raise SettingError(f"points is {points!r}, expected 2 or more: one node has no variance")
    x, w = np.polynomial.legendre.leggauss(points)
    return Law(torch.from_numpy(x * math.sqrt(3)), torch.from_numpy(w / 2))


def survival_law(p: float) -> Law:
    """zeta = (b - p) / sqrt(p (1 - p)), b = 1 of chance p and else 0.

    Raises:
        SettingError: p is no chance between 0 and 1.
    """
    if not 0 < p < 1:
        raise SettingError(f"p is {p}, expected a chance between 0 and 1")
    root = math.sqrt(p * (1 - p))
    kind = torch.float64
    return Law(torch.tensor([-p / root, (1 - p) / root], dtype=kind), torch.tensor([1 - p, p], dtype=kind))


def diffusive(b: Coefficient, d: Coefficient, calculus: str = "ito") -> Sde:
    """dX = b dt + d dW, in Ito's reading the limit of blocks x + h b + sqrt h zeta d."""
    return Sde(lambda t, y: b(y), Scalar(lambda t, y: d(y)), calculus)  # type: ignore[arg-type] - checked by Sde


def literal(b: Coefficient, d: Coefficient, h: float, order: int = 1) -> Sde:
    """The modified equation of blocks x + h b + h zeta d: its noise is sqrt h d, of order 2 its drift b - (h / 2) b'b.

    Order 0 is the limit, the ODE of b.
    """
    if order not in (0, 1, 2):
        raise SettingError(f"order is {order!r}, expected 0, 1 or 2")
    if order == 0:
        return Sde(lambda t, y: b(y), Additive(0.0))

    def drift(t: float, y: State) -> State:
        if order == 1:
            return b(y)
        return b(y) - h / 2 * derivative(lambda s, x: b(x), t, y, b(y))

    return Sde(drift, Scalar(lambda t, y: math.sqrt(h) * d(y)))


def weak_errors(
    blocks: Callable[[float, State, Tensor], State],
    law: Law,
    equation: Callable[[float], Sde],
    phi: Callable[[Tensor], Tensor],
    *,
    depths: list[int],
    time: float = 1.0,
    basis: Circle | None = None,
) -> Ladder:
    """max over starts of |E phi(network) - E phi(equation)|, for networks of these depths, without sampling.

    Args:
        blocks: (h, x [..., 1], zeta [..., 1]) -> [..., 1], one block, periodic in x.
        equation: h -> the Sde that it is compared with at ``time``; one block is h = time / depth.
        phi: [g] -> [g].
    """
    if not all(type(depth) is int and depth > 0 for depth in depths):
        raise SettingError(f"depths is {depths}, expected whole numbers of blocks")
    basis = basis or Circle(161)
    values, zeta = phi(basis.grid()), law.values[:, None, None]

    def error(h: float) -> float:
        chain = transfer(lambda x: blocks(h, x, zeta), law.chances, basis)
        network = torch.linalg.matrix_power(chain, round(time / h)) @ values
        return float((network - semigroup(equation(h), time, basis) @ values).abs().max())

    return ladder(error, [time / depth for depth in depths])
