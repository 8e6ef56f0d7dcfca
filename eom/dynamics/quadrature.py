"""Random numbers as the nodes of a quadrature: the expectation over one step without sampling."""

from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from eom.dynamics.brownian import Interval, Place
from eom.dynamics.field import State
from eom.errors import SettingError


@dataclass(frozen=True)
class Nodes:
    """In the place of a Brownian path: q values of its numbers over one step, with ``weights`` [q].

    ``w`` and ``areas`` [q, m] are standard normal in law, ``flips`` [q, c] are +-1. A stepper that has these for its
    path takes states [q, ..., n], one copy for each node, so that sum_q weights_q phi(step(y)_q) = E phi(step(y)):
    exactly for polynomials up to the degree of the rule.
    """

    weights: Tensor
    w: Tensor
    areas: Tensor | None
    flips: Tensor

    def next(self, place: Place, h: float, y: State, channels: int) -> tuple[Interval, Place]:
        if self.w.shape[1] != channels:
            raise SettingError(f"the nodes are of {self.w.shape[1]} Brownian motions, and the noise has {channels}")
        return Interval(0, 0, self._over(sqrt(h) * self.w, y), None), place

    def area(self, interval: Interval, h: float) -> Tensor:
        if self.areas is None:
            raise SettingError("this stepper takes areas of the path: make the nodes with gaussian_nodes(areas=True)")
        return self._over(sqrt(h / 12) * self.areas, interval.w)

    def signs(self, interval: Interval, count: int) -> Tensor:
        if self.flips.shape[1] != count:
            raise SettingError(f"this stepper takes {count} signs: make the nodes with gaussian_nodes(flips={count})")
        return self._over(self.flips, interval.w)

    def _over(self, values: Tensor, y: State) -> Tensor:
        """[q, m] -> [q, ..., m], the same beside every state of [q, ..., n]."""
        values = values.reshape(len(values), *[1] * (y.ndim - 2), values.shape[-1])
        return values.to(y).expand(*y.shape[:-1], -1)


def gaussian_nodes(channels: int, points: int, *, areas: bool = False, flips: int = 0) -> Nodes:
    """Gauss-Hermite with ``points`` nodes for each Brownian motion, exact to degree 2 ``points`` - 1.

    With ``areas`` those of the path are integrated over too (``SRA1``), with ``flips`` so many signs (``Platen``: one
    for each pair of motions). ``EulerMaruyama(gaussian_nodes(1, 8))`` is a stepper of all outcomes at once; see
    ``marched`` and ``transfer``.
    """
    x, weight = np.polynomial.hermite_e.hermegauss(points)
    normal = list(zip(x, weight / weight.sum(), strict=True))
    fixed, sign = [(0.0, 1.0)], [(-1.0, 0.5), (1.0, 0.5)]
    kinds = [normal] * channels + [normal if areas else fixed] * channels + [sign] * flips
    nodes = torch.tensor(list(product(*kinds)), dtype=torch.float64)  # [q, 2 m + c, 2]
    value, chance = nodes[..., 0], nodes[..., 1].prod(1)
    w, area, sign_values = value.split([channels, channels, flips], 1)
    return Nodes(chance, w, area if areas else None, sign_values)
