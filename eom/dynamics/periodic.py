"""u = g(u) on a periodic grid, freed from what is stiff in it: the part of g' that is the same everywhere.

With the mean over the grid of g's stencils C, a convolution, u = u + (1 - C)^-1 (g(u) - u) has the same solutions and a
map whose derivative is small: (1 - C)^-1 (g' - C). Its residual is near the error of u, where that of g may be far
larger.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from eom.dynamics.newton_krylov import along

Map = Callable[[Tensor], Tensor]  # [b, n] -> [b, n], row by row
APART = 16  # points between the impulses that stencils are read off


def loosened(g: Map, u: Tensor, grid: tuple[int, ...]) -> Map:
    """u -> u + (1 - C)^-1 (g(u) - u), C the mean stencil at ``u`` [b, n], n = channels x ``grid``, by a call of g each.

    A stencil wider than ``APART`` points is folded, and the map less loose.
    """
    size, axes = math.prod(grid), tuple(range(-len(grid), 0))
    channels, value = u.shape[-1] // size, g(u)
    apart = [min(APART, points) for points in grid]
    comb = u.new_zeros(grid)
    comb[tuple(slice(0, points - s + 1, s) for points, s in zip(grid, apart, strict=True))] = 1
    columns = []
    for c in range(channels):
        pulse = u.new_zeros(len(u), channels, *grid)
        pulse[:, c] = comb
        answer = along(g, u, value, pulse.flatten(1)).view_as(pulse)
        columns.append(torch.fft.rfftn(mean_stencil(answer, apart), dim=axes))
    unit = torch.eye(channels, dtype=columns[0].dtype, device=u.device)
    inverse, singular = torch.linalg.inv_ex(unit - torch.stack(columns, -1).movedim(1, -2))
    inverse = torch.where(singular[..., None, None] == 0, inverse, unit)  # [b, modes, channels, channels]

    def without(u: Tensor) -> Tensor:
        modes = torch.fft.rfftn((g(u) - u).view(len(u), channels, *grid), dim=axes).movedim(1, -1)
        moved = (inverse @ modes[..., None])[..., 0].movedim(-1, 1)
        return u + torch.fft.irfftn(moved, s=grid, dim=axes).flatten(1)

    return without


def mean_stencil(answer: Tensor, apart: list[int]) -> Tensor:
    """[b, channels, ...] around the origin, the mean of what stands around each of the impulses ``apart``."""
    out, first = answer, answer.ndim - len(apart)
    for axis, s in enumerate(apart, first):
        windows = out.roll(s // 2, axis).unfold(axis, s, s).mean(axis)  # [..., s], the axis last
        alone = torch.nn.functional.pad(windows, (0, answer.shape[axis] - s)).roll(-(s // 2), -1)
        out = alone.movedim(-1, axis)
    return out
