"""Numbers read off a state, and how fast a field changes them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import jvp

from eom.dynamics.field import State, VectorField

Observable = Callable[[State], Tensor]  # [n] -> [], or [g] with one number per group


def rate(observable: Observable, field: VectorField) -> Callable[[float, State], Tensor]:
    """d/dt of ``observable`` along ``field``: (t, [n]) -> grad q . f, one directional derivative."""
    return lambda t, y: jvp(observable, (y,), (field(t, y),))[1]


class GroupSum:
    """Sum of the entries [n] of each group, [g], accumulated in float64; groups may overlap."""

    def __init__(self, groups: Mapping[str, Tensor]):
        self._members = [_slice_if_contiguous(indices) for indices in groups.values()]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([x[members].sum(dtype=torch.float64) for members in self._members])


def _slice_if_contiguous(indices: Tensor) -> Tensor | slice:
    contiguous = bool((indices.diff() == 1).all())
    return slice(int(indices[0]), int(indices[-1]) + 1) if contiguous else indices


def norm_squared(groups: Mapping[str, Tensor]) -> Observable:
    """|theta_g|^2 of each group, [n] -> [g]."""
    total = GroupSum(groups)
    return lambda y: total(y * y)
