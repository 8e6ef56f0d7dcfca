"""Numbers read off a state, and how fast a field changes them."""

from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from eom.calculus.inner import dot
from eom.calculus.lie import directional
from eom.dynamics.field import State, VectorField

Run = tuple[int, int]  # [start, stop)
PIECES = 64  # runs of adjacent indices up to which a group counts as a union of pieces

Observable = Callable[[State], Tensor]  # [n] -> [], or [g] with one number per group


def rate(observable: Observable, field: VectorField) -> Callable[[float, State], Tensor]:
    """d/dt of ``observable`` along ``field``: (t, [n]) -> grad q . f, one directional derivative."""
    return lambda t, y: directional(observable, y, field(t, y))


class IndexSets(Mapping[str, Tensor]):
    """Named sets of indices into [n], each given as runs [start, stop) of adjacent ones, or as they are [m].

    Runs become indices when they are asked for, as those of a large network would fill the memory.
    """

    def __init__(self, members: Mapping[str, list[Run] | Tensor]):
        self._members = dict(members)

    def __getitem__(self, name: str) -> Tensor:
        found = self._members[name]
        return found if isinstance(found, Tensor) else torch.cat([torch.arange(a, b) for a, b in found])

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def runs(self, name: str) -> list[Run]:
        """Runs of adjacent indices, in order and joined where they touch."""
        found = self._members[name]
        return _runs(found) if isinstance(found, Tensor) else joined(found)


class GroupSum:
    """Sums over groups of entries of [n], in float64; groups may overlap.

    The vector is cut into pieces of which each group is a union, so that entries shared by several groups are added up
    once. A group of scattered entries is gathered.

    Args:
        groups: name -> indices.
        sizes: of the tensors that [n] is made of, if sums over them are wanted without putting them together.
    """

    def __init__(self, groups: Mapping[str, Tensor], sizes: Sequence[int] = ()):
        groups = groups if isinstance(groups, IndexSets) else IndexSets(groups)
        runs = [groups.runs(name) for name in groups]
        unions = [r if len(r) <= PIECES else [] for r in runs]
        borders = list(accumulate(sizes, initial=0))
        cuts = sorted({end for union in unions for run in union for end in run} | set(borders))
        pieces = list(pairwise(cuts))
        member = [[any(a <= start and stop <= b for a, b in union) for start, stop in pieces] for union in unions]
        scattered = [i for i, r in enumerate(runs) if len(r) > PIECES]
        parts: list[slice | Tensor] = [slice(a, b) for a, b in pieces]
        self._parts = parts + [groups[name] for i, name in enumerate(groups) if i in scattered]
        self._member = torch.tensor(
            [row + [i == j for j in scattered] for i, row in enumerate(member)], dtype=torch.float64
        )
        homes = [bisect(borders, a) - 1 for a, _ in pieces] if sizes else []
        self._within = [(k, slice(a - borders[k], b - borders[k])) for k, (a, b) in zip(homes, pieces, strict=False)]
        self.by_tensor = bool(sizes) and not scattered  # ``inner_of`` can be asked

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_{i in g} x_i y_i of each group, [n], [n] -> [g]."""
        return self._collect([dot(x[part], y[part]) for part in self._parts])

    def inner_of(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
        """The same for vectors given as their tensors, each flat."""
        return self._collect([dot(xs[k][part], ys[k][part]) for k, part in self._within])

    def _collect(self, sums: list[Tensor]) -> Tensor:
        return self._member.to(sums[0].device) @ torch.stack(sums)


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same indices in runs that do not touch, in order."""
    found: list[Run] = []
    for start, stop in sorted(runs):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


def _runs(indices: Tensor) -> list[Run]:
    indices = indices.sort().values
    breaks = ((indices.diff() != 1).nonzero().flatten() + 1).tolist()
    return [(int(indices[a]), int(indices[b - 1]) + 1) for a, b in pairwise([0, *breaks, len(indices)])]


def norm_squared(groups: Mapping[str, Tensor]) -> Observable:
    """|theta_g|^2 of each group, [n] -> [g]."""
    total = GroupSum(groups)
    return lambda y: total.inner(y, y)
