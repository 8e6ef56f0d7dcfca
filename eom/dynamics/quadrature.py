"""Random numbers as the nodes of a quadrature: the expectation over one step without sampling."""

from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from eom.dynamics.brownian import Interval, Place
from eom.dynamics.field import State


@dataclass(frozen=True)
class Nodes:
    """In the place of a Brownian path: q values of its numbers over one step, with ``weights`` [q].

    ``w`` and ``areas`` [q, m] are standard normal in law, ``flips`` [q, c] are +-1. A stepper that has these for its
    path takes states [q, ..., n], one copy for each node, so that sum_q weights_q phi(step(y)_q) = E phi(step(y)):
    exactly for polynomials up to the degree of the rule.
    """

    weights: Tensor
    w: Tensor
    areas: Tensor
    flips: Tensor

    def next(self, place: Place, h: float, y: State, channels: int) -> tuple[Interval, Place]:
        return Interval(0, 0, self._over(sqrt(h) * self.w, y), None), place

    def area(self, interval: Interval, h: float) -> Tensor:
        return self._over(sqrt(h / 12) * self.areas, interval.w)

    def signs(self, interval: Interval, count: int) -> Tensor:
        return self._over(self.flips, interval.w)

    def _over(self, values: Tensor, y: State) -> Tensor:
        """[q, m] -> [q, ..., m], the same beside every state of [q, ..., n]."""
        values = values.reshape(len(values), *[1] * (y.ndim - 2), values.shape[-1])
        return values.to(y).expand(*y.shape[:-1], -1)


def gaussian_nodes(channels: int, points: int, *, areas: bool = False, flips: int = 0) -> Nodes:
    """Gauss-Hermite with ``points`` nodes for each Brownian motion, exact to degree 2 ``points`` - 1.

    With ``areas`` those of the path are integrated over too, with ``flips`` so many signs.
    """
    x, weight = np.polynomial.hermite_e.hermegauss(points)
    normal = list(zip(x, weight / weight.sum(), strict=True))
    fixed, sign = [(0.0, 1.0)], [(-1.0, 0.5), (1.0, 0.5)]
    kinds = [normal] * channels + [normal if areas else fixed] * channels + [sign] * flips
    nodes = torch.tensor(list(product(*kinds)), dtype=torch.float64)  # [q, 2 m + c, 2]
    value, chance = nodes[..., 0], nodes[..., 1].prod(1)
    return Nodes(chance, *value.split([channels, channels, flips], 1))
