"""Inner products of long vectors: torch's own add small numbers to a large one, which single precision loses."""

import torch
from torch import Tensor

CACHED = 1 << 17  # numbers that are made float64 at once, and stay in a processor's cache
FEW = 1 << 14  # numbers that are added up in their own precision


def dot(x: Tensor, y: Tensor) -> Tensor:
    """sum_i x_i y_i, [n], [n] -> [] in float64."""
    return _sum([torch.dot(a.double(), b.double()) for a, b in zip(x.split(CACHED), y.split(CACHED), strict=True)])


def norm(x: Tensor) -> Tensor:
    """|x|, [n] -> [] in float64."""
    return _sum([torch.dot(a, a) for a in map(Tensor.double, x.split(CACHED))]).sqrt()


def coordinates(basis: Tensor, x: Tensor) -> Tensor:
    """<b_i, x> of every row of a basis, [m, n], [n] -> [m] in float64, to the digits of x."""
    return _sum([torch.mv(b, a).double() for b, a in zip(basis.split(FEW, 1), x.split(FEW), strict=True)])


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
