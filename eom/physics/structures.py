"""Learned structures G of u' = G grad H(u): maps g [b, n] -> G g, and which law each keeps by construction."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eom.errors import SettingError
from eom.physics.limits import is_number, require_grid, require_halves, require_positive, require_whole
from eom.physics.systems import rotate, rotate_with_friction


class Friction(nn.Module):
    """(S - diag(0, r)) g with learned r = root^2, one for each momentum: energy never rises."""

    def __init__(self, size: int, start: float = 0.1):
        super().__init__()
        require_whole(size=size)
        require_halves(size)
        require_positive(start=start)  # at 0 the root has no slope
        self.root = nn.Parameter(torch.full((size // 2,), math.sqrt(start)))

    @property
    def strength(self) -> Tensor:
        """[n / 2] r."""
        return self.root**2

    def forward(self, g: Tensor) -> Tensor:
        return rotate_with_friction(self.strength)(g)


class FreeMatrix(nn.Module):
    """G g with any learned matrix: no law is promised."""

    def __init__(self, size: int):
        super().__init__()
        require_whole(size=size)
        self.matrix = nn.Parameter(0.1 * torch.randn(size, size))

    def forward(self, g: Tensor) -> Tensor:
        return g @ self.matrix.T


class DissipativeMatrix(nn.Module):
    """G = A - A^T - B B^T: energy never rises. A - A^T starts near the S of positions, then momenta.

    Give entries in this order: from the other sign -H is learned, which no B B^T lets lose what H loses.
    """

    def __init__(self, size: int):
        super().__init__()
        require_whole(size=size)
        start = -rotate(torch.eye(size)) / 2 if size % 2 == 0 else torch.zeros(size, size)
        self.turning = nn.Parameter(start + 0.1 * torch.randn(size, size))
        self.losing = nn.Parameter(0.1 * torch.randn(size, size))

    def forward(self, g: Tensor) -> Tensor:
        skew = self.turning - self.turning.T
        return g @ skew.T - (g @ self.losing) @ self.losing.T


class FreeKernel(nn.Module):
    """Convolution with a learned kernel of odd ``width`` on a periodic ``grid``: no law is promised."""

    def __init__(self, grid: tuple[int, ...], width: int = 3, scale: float = 1.0):
        super().__init__()
        require_whole(width=width)
        if width % 2 == 0:
            raise SettingError(f"width is {width}, expected an odd number: a kernel has a middle")
        _require_within(grid, width)
        if not (is_number(scale) and scale):
            raise SettingError(f"scale is {scale!r}, expected a finite number other than 0")
        self.grid, self.scale = tuple(grid), scale
        self.weight = nn.Parameter(0.1 * torch.randn((width,) * len(grid)))

    @property
    def kernel(self) -> Tensor:
        """[w] or [w, w], as a stencil: entry c + k weighs the value k cells to the right."""
        return self.scale * self.weight

    def forward(self, g: Tensor) -> Tensor:
        return convolved(g, self.kernel, self.grid)


class DissipativeKernel(nn.Module):
    """- sum_i k_i^T k_i with learned kernels k_i that sum to zero: mass is kept, and energy never rises.

    As a stencil it is of width 2 ``width`` - 1, symmetric, and its symbol -sum |k_i^|^2 <= 0.
    """

    def __init__(self, grid: tuple[int, ...], width: int = 2, count: int | None = None, scale: float = 1.0):
        super().__init__()
        require_whole(width=width, count=1 if count is None else count)
        if width == 1:
            raise SettingError("width is 1, and a kernel that sums to zero is 0 there: expected 2, 3, ...")
        require_positive(scale=scale)
        _require_within(grid, 2 * width - 1)
        self.grid, self.scale = tuple(grid), scale
        self.weight = nn.Parameter(0.5 * torch.randn((count or 2 ** len(grid), *(width,) * len(grid))))

    @property
    def kernel(self) -> Tensor:
        axes = tuple(range(1, self.weight.ndim))
        k = (self.weight - self.weight.mean(axes, keepdim=True))[:, None]
        pad = k.shape[-1] - 1
        conv = F.conv1d if len(self.grid) == 1 else F.conv2d
        return -self.scale * torch.stack([conv(x[None], x[None], padding=pad)[0, 0] for x in k]).sum(0)

    def forward(self, g: Tensor) -> Tensor:
        return convolved(g, self.kernel, self.grid)


class SkewKernel(nn.Module):
    """Convolution with k - (k reversed), k any kernel of odd ``width``: energy and mass are kept."""

    def __init__(self, grid: tuple[int, ...], width: int = 3, scale: float = 1.0):
        super().__init__()
        if width == 1:
            raise SettingError("width is 1, and a kernel less itself reversed is 0 there: expected 3, 5, ...")
        self.grid, self.free = tuple(grid), FreeKernel(grid, width, scale)

    @property
    def kernel(self) -> Tensor:
        k = self.free.kernel
        return k - k.flip(tuple(range(k.ndim)))

    def forward(self, g: Tensor) -> Tensor:
        return convolved(g, self.kernel, self.grid)


def convolved(g: Tensor, kernel: Tensor, grid: tuple[int, ...]) -> Tensor:
    """[b, n] sum_k kernel[c + k] g[. + k] on a periodic grid."""
    pad = kernel.shape[-1] // 2
    wide = F.pad(g.unflatten(-1, grid).unsqueeze(1), (pad,) * (2 * len(grid)), mode="circular")
    conv = F.conv1d if len(grid) == 1 else F.conv2d
    return conv(wide, kernel[None, None]).flatten(1)


def _require_within(grid: tuple[int, ...], stencil: int) -> None:
    require_grid(grid)
    if len(grid) not in (1, 2) or stencil > min(grid):
        raise SettingError(
            f"the stencil is {stencil} points wide on a grid {grid}, expected one or two axes of as many points or more"
        )
