"""What a learned law says: an energy against the true one, and a kernel as the partial differential equation it is.

A field u' = G grad H fixes H up to a constant, and up to a factor that G gives back: G -> c G, H -> H / c. Energies are
compared up to both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eom.errors import SettingError
from eom.physics.limits import is_number
from eom.physics.trajectories import tensor_of

Energy = Callable[[Tensor], Tensor]  # [b, n] -> [b]
ROUNDING = 1e-12  # of the sum of sizes
WAVES = 64  # wave numbers along each axis on which a symbol is read


@dataclass(frozen=True)
class Agreement:
    """true = offset + scale * learned + multiples of what is unseen, up to ``residual``; scale 0 of a learned constant.

    ``residual_at_scale_one`` is left by the best offset and multiples alone.

    Residuals are root mean squares over the standard deviation of the true energy on the states.
    """

    scale: float
    offset: float
    residual: float
    residual_at_scale_one: float


def compare_energies(learned: Energy, true: Energy, states: Tensor, unseen: Sequence[Energy] = ()) -> Agreement:
    """How well ``learned`` is ``true`` on ``states`` [b, n], up to an offset and a scale, by least squares.

    Of a learned Lagrangian that is too little in one dimension: there any function of H may be its energy.

    ``unseen`` are what the structure cannot see, G grad C = 0, such as the mass of a field whose G is a derivative: any
    multiple of them may stand in a learned energy, and is left out of both.

    Raises:
        SettingError: fewer than three states, not finite, or energies that are not one finite number for each of them;
            a true energy that is the same on all.
    """
    checked_states(states, 3)
    with torch.no_grad():
        x, y = (scalars(name, e, states) for name, e in (("learned", learned), ("true", true)))
        basis = torch.stack([torch.ones_like(x), *(scalars("unseen", c, states) for c in unseen)], 1)
        basis = basis / basis.abs().amax(0).clamp(min=torch.finfo(x.dtype).tiny)  # in any units
        both = torch.stack([x, y], 1)
        weights = torch.linalg.lstsq(basis, both).solution  # [1 + unseen, 2]
        a, b = (both - basis @ weights).T
    spread = float(b.square().mean().sqrt())
    if spread <= ROUNDING * float(y.abs().max()):
        raise SettingError(f"the true energy is {float(y[0]):g} on all states, expected states of different energies")
    constant = float(a.abs().max()) <= ROUNDING * float(x.abs().max())
    scale = 0.0 if constant else float(a @ b / a.square().sum())

    def left(c: float) -> float:
        return float((b - c * a).square().mean().sqrt()) / spread

    return Agreement(scale, float(weights[0, 1] - scale * weights[0, 0]), left(scale), left(1.0))


@dataclass(frozen=True)
class Kernel:
    """Of u_t(x) = sum_j K_j u(x + j dx), as rate u + drift . grad u + tr(diffusion grad grad u) + ...

    ``rate`` is sum K; ``symbol`` the least and largest real part of sum_j K_j exp(i k j), ``imaginary`` its largest
    imaginary part, over all waves of the grid; ``anisotropy`` the spread of the eigenvalues of ``diffusion`` over
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
        SettingError: another number of axes, an even size or one beyond 64, entries that are not finite or all zero, dx
        not positive, a tolerance that is no share. DataError: no real numbers.
    """
    k = tensor_of("the kernel's entries", kernel).double()
    if k.ndim not in (1, 2) or any(n % 2 == 0 for n in k.shape):
        raise SettingError(f"the kernel is {list(k.shape)}, expected one or two axes of odd sizes around its middle")
    if max(k.shape) > WAVES:
        raise SettingError(f"the kernel is {list(k.shape)}, expected fewer points along an axis than the {WAVES} waves")
    size = float(k.abs().sum())
    if not (math.isfinite(size) and size > 0):
        raise SettingError(f"the kernel's entries sum to {size} in size, expected finite numbers that are not all 0")
    if not (is_number(dx) and dx > 0):
        raise SettingError(f"dx is {dx!r}, expected a positive distance")
    if not (is_number(tolerance) and 0 <= tolerance < 1):
        raise SettingError(f"tolerance is {tolerance!r}, expected a share of the kernel's size: 0 or more, below 1")
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in k.shape]
    at = torch.cartesian_prod(*axes).view(k.numel(), k.ndim)  # [m, d]
    k = k.flatten()
    waves = 2 * math.pi / WAVES * torch.arange(WAVES, dtype=torch.float64)
    phases = torch.cartesian_prod(*[waves] * at.shape[1]).view(-1, at.shape[1]) @ at.T
    real, imaginary = torch.cos(phases) @ k, torch.sin(phases) @ k
    second = torch.einsum("m,mi,mj->ij", k, at, at)
    spread = torch.linalg.eigvalsh(second)
    anisotropy = _share(float(spread[-1] - spread[0]), float(spread.mean()), size)
    fourth = 0.0
    if at.shape[1] == 2:
        ends, middle = (k @ at**4).tolist(), 3 * float(k @ at.square().prod(1))
        fourth = max(_share(end - middle, abs(end) + abs(middle), size) for end in ends)
    return Kernel(
        float(k.sum()), tuple((dx * (k @ at)).tolist()), second * dx**2 / 2, (float(real.min()), float(real.max())),
        float(imaginary.abs().max()), anisotropy, fourth, size, tolerance,
    )  # fmt: skip


def _share(part: float, whole: float, size: float) -> float:
    """|part / whole|, 0 where both are rounding."""
    return abs(part / whole) if abs(whole) > 1e-12 * size else (0.0 if abs(part) <= 1e-12 * size else math.inf)


def checked_states(states: Tensor, least: int) -> None:
    if not (isinstance(states, Tensor) and states.ndim == 2 and states.is_floating_point()):
        raise SettingError(f"states are {getattr(states, 'shape', type(states))}, expected floats [b, n]")
    if not bool(torch.isfinite(states).all()):
        raise SettingError("states hold NaN or infinity, expected finite numbers")
    if len(states) < least:
        raise SettingError(f"{len(states)} states, expected {least} or more for what is fitted to them")


def in_floats_of(function: Any, u: Tensor) -> Tensor:
    """States in the floats of a module's parameters."""
    return u.to(next((x.dtype for x in getattr(function, "parameters", tuple)()), u.dtype))


def scalars(name: str, energy: Energy, states: Tensor) -> Tensor:
    """[b] the energy of each state."""
    found = energy(in_floats_of(energy, states))
    found = found[..., 0] if found.shape == (len(states), 1) else found
    if found.shape != states.shape[:1]:
        raise SettingError(
            f"the {name} energy of {len(states)} states is {list(found.shape)}, expected one number each"
        )
    if not bool(torch.isfinite(found).all()):
        raise SettingError(f"the {name} energy is NaN or infinite on some states")
    return found.double()
