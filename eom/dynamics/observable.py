"""Numbers read off a state, and how fast a field changes them."""

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.func import jvp

from eom.dynamics.field import State, VectorField

Observable = Callable[[State], Tensor]  # [n] -> [], or [g] with one number per group


def rate(observable: Observable, field: VectorField) -> Callable[[float, State], Tensor]:
    """d/dt of ``observable`` along ``field``: (t, [n]) -> grad q . f, one directional derivative."""
    return lambda t, y: jvp(observable, (y,), (field(t, y),))[1]


class GroupSum:
    """Sums over groups of entries of [n], in float64; groups may overlap.

    The vector is cut into pieces of which each group is a union, so that entries shared by several groups are added up
    once. A group of scattered entries is gathered.

    Args:
        groups: name -> indices.
        sizes: of the tensors that [n] is made of, if sums over them are wanted without putting them together.
    """

    def __init__(self, groups: Mapping[str, Tensor], sizes: Sequence[int] = ()):
        runs = [_runs(indices) for indices in groups.values()]
        unions = [r if len(r) <= PIECES else [] for r in runs]
        borders = list(accumulate(sizes, initial=0))
        cuts = sorted({end for union in unions for run in union for end in run} | set(borders))
        pieces = list(pairwise(cuts))
        member = [[any(a <= start and stop <= b for a, b in union) for start, stop in pieces] for union in unions]
        scattered = [i for i, r in enumerate(runs) if len(r) > PIECES]
        parts: list[slice | Tensor] = [slice(a, b) for a, b in pieces]
        self._parts = parts + [indices for i, indices in enumerate(groups.values()) if i in scattered]
        self._member = torch.tensor(
            [row + [i == j for j in scattered] for i, row in enumerate(member)], dtype=torch.float64
        )
        homes = [bisect(borders, a) - 1 for a, _ in pieces] if sizes else []
        self._within = [(k, slice(a - borders[k], b - borders[k])) for k, (a, b) in zip(homes, pieces, strict=False)]
        self.by_tensor = bool(sizes) and not scattered  # ``inner_of`` can be asked

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_{i in g} x_i y_i of each group, [n], [n] -> [g]."""
        x, y = x.double(), y.double()
        return self._collect([torch.dot(x[part], y[part]) for part in self._parts])

    def inner_of(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
        """The same for vectors given as their tensors, each flat and in float64."""
        return self._collect([torch.dot(xs[k][part], ys[k][part]) for k, part in self._within])

    def _collect(self, sums: list[Tensor]) -> Tensor:
        return self._member.to(sums[0].device) @ torch.stack(sums)


PIECES = 64  # runs of adjacent indices up to which a group counts as a union of pieces


def _runs(indices: Tensor) -> list[tuple[int, int]]:
    """Runs [start, stop) of adjacent indices, in order."""
    indices = indices.sort().values
    breaks = ((indices.diff() != 1).nonzero().flatten() + 1).tolist()
    return [(int(indices[a]), int(indices[b - 1]) + 1) for a, b in pairwise([0, *breaks, len(indices)])]


def norm_squared(groups: Mapping[str, Tensor]) -> Observable:
    """|theta_g|^2 of each group, [n] -> [g]."""
    total = GroupSum(groups)
    return lambda y: total.inner(y, y)
