"""A learned kernel as the partial differential equation that it is: what it keeps, damps and prefers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.errors import SettingError
from eom.physics.limits import is_number
from eom.physics.trajectories import tensor_of

ROUNDING = 1e-12  # of the sum of sizes
WAVES, SPLIT = 8, 1024  # times a kernel's points along an axis: wave numbers that are looked at, so many at once
NEAREST, HALVINGS = 16, 30  # of them, near which the highest is looked for, and how often steps are halved


@dataclass(frozen=True)
class Kernel:
    """Of u_t(x) = sum_j K_j u(x + j dx), as rate u + drift . grad u + tr(diffusion grad grad u) + ...

    ``rate`` is sum K; ``symbol`` the least and largest real part of sum_j K_j exp(i k j), ``imaginary`` its largest
    imaginary part, over all wave numbers; ``anisotropy`` the spread of the eigenvalues of ``diffusion`` over
    their mean (axes against diagonals and each other), ``anisotropy_of_fourth`` that of the term of fourth order,
    |M_iiii - 3 M_1122| over their sum, the larger of the axes. ``tolerance`` is relative to sum |K|.
    """

    rate: float
    drift: tuple[float, ...]
    diffusion: Tensor  # [d, d]
    symbol: tuple[float, float]
    imaginary: float
    anisotropy: float
    anisotropy_of_fourth: float
    size: float
    tolerance: float

    @property
    def conserves_mass(self) -> bool:
        return abs(self.rate) <= self.tolerance * self.size

    @property
    def symmetric(self) -> bool:
        """K_j = K_-j: the symbol is real."""
        return self.imaginary <= self.tolerance * self.size

    @property
    def dissipative(self) -> bool:
        """No wave grows, and some decay."""
        low, high = self.symbol
        return high <= self.tolerance * self.size and low < -self.tolerance * self.size

    @property
    def isotropic(self) -> bool:
        """To second order: no drift, and diffusion alike in all directions, to ten times the tolerance."""
        return self.symmetric and self.anisotropy <= 10 * self.tolerance

    def __str__(self) -> str:
        low, high = self.symbol
        exact, nearly = ROUNDING * self.size, f"nearly (to {self.tolerance:g} of its entries) "
        mass = ("" if abs(self.rate) <= exact else nearly) + "conserved" if self.conserves_mass else "not conserved"
        energy = "is " + (("" if high <= exact else nearly) + "dissipative" if self.dissipative else "not dissipative")
        if not self.dissipative and max(-low, high) <= self.tolerance * self.size:
            energy = "neither damps nor drives: all waves keep their size"
        alike = "isotropic" if self.isotropic else "not isotropic"
        said = [
            f"Mass is {mass}: the kernel's sum is {self.rate:.3g}, {abs(self.rate) / self.size:.1e} of its entries.",
            f"It {energy}; the symbol's real part is in [{low:.4g}, {high:.4g}], its imaginary within "
            f"{self.imaginary:.2g}.",
            f"To second order it is {alike}: diffusion differs by {self.anisotropy:.2g} between directions. The fourth "
            f"order differs by {self.anisotropy_of_fourth:.2g}.",
        ]
        return "\n".join(said if len(self.drift) > 1 else said[:2])  # a line has one direction


def read_kernel(kernel: Tensor, dx: float = 1.0, *, tolerance: float = 1e-3) -> Kernel:
    """A 1-D or 2-D ``kernel`` of odd sizes as what it does on a grid of spacing ``dx``; see ``Kernel``.

    Raises:
        SettingError: another number of axes, an even size, entries that are not finite or all zero, dx not positive, a
        tolerance that is no share. DataError: no real numbers.
    """
    k = tensor_of("the kernel's entries", kernel).double()
    if k.ndim not in (1, 2) or any(n % 2 == 0 for n in k.shape):
        raise SettingError(f"the kernel is {list(k.shape)}, expected one or two axes of odd sizes around its middle")
    size = float(k.abs().sum())
    if not (math.isfinite(size) and size > 0):
        raise SettingError(f"the kernel's entries sum to {size} in size, expected finite numbers that are not all 0")
    if not (is_number(dx) and dx > 0):
        raise SettingError(f"dx is {dx!r}, expected a positive distance")
    if not (is_number(tolerance) and 0 <= tolerance < 1):
        raise SettingError(f"tolerance is {tolerance!r}, expected a share of the kernel's size: 0 or more, below 1")
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in k.shape]
    at = torch.cartesian_prod(*axes).view(k.numel(), k.ndim)  # [m, d]
    sizes, k = k.shape, k.flatten()
    high = _highest(lambda phase: torch.cos(phase) @ k, at, sizes)
    low = -_highest(lambda phase: -(torch.cos(phase) @ k), at, sizes)
    turning = _highest(lambda phase: torch.sin(phase) @ k, at, sizes)  # odd: as large below zero
    second = torch.einsum("m,mi,mj->ij", k, at, at)
    spread = torch.linalg.eigvalsh(second)
    anisotropy = _share(float(spread[-1] - spread[0]), float(spread.mean()), size)
    fourth = 0.0
    if at.shape[1] == 2:
        ends, middle = (k @ at**4).tolist(), 3 * float(k @ at.square().prod(1))
        fourth = max(_share(end - middle, abs(end) + abs(middle), size) for end in ends)
    return Kernel(
        float(k.sum()), tuple((dx * (k @ at)).tolist()), second * dx**2 / 2, (low, high), turning, anisotropy,
        fourth, size, tolerance,
    )  # fmt: skip


def _highest(value: Callable[[Tensor], Tensor], at: Tensor, sizes: Sequence[int]) -> float:
    """The largest of a function of the phases [w, m] = k . ``at`` over all wave numbers k: a lattice, and near it."""
    lattice = torch.cartesian_prod(
        *[torch.arange(WAVES * n, dtype=at.dtype) * (2 * math.pi / (WAVES * n)) for n in sizes]
    )
    k = lattice.view(-1, len(sizes))
    step = 2 * math.pi / (WAVES * torch.tensor(sizes, dtype=at.dtype))
    best = torch.cat([value(part @ at.T) for part in k.split(SPLIT)])
    top = k[best.topk(min(NEAREST, len(k))).indices]
    around = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=at.dtype)] * len(sizes)).view(-1, len(sizes))
    for _ in range(HALVINGS):
        near = top[:, None] + around * step  # [c, 3^d, d]
        found = value(near.flatten(0, 1) @ at.T).view(near.shape[:2])
        top = near[torch.arange(len(near)), found.argmax(1)]
        step = step / 2
    return float(torch.maximum(best.max(), found.max()))


def _share(part: float, whole: float, size: float) -> float:
    """|part / whole|, 0 where both are rounding."""
    return abs(part / whole) if abs(whole) > 1e-12 * size else (0.0 if abs(part) <= 1e-12 * size else math.inf)
