"""What Brownian motions do to a state: the diffusion of a stochastic differential equation, in its usual forms.

Each is a map (t, y [..., n], dw [..., m]) -> sigma(t, y) dw [..., n], linear in dw, and knows how many Brownian motions
it takes. ``drag`` is sum_j (D sigma_j) sigma_j [..., n], twice the drift that stands between Ito and Stratonovich.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp

from eom.dynamics.field import State
from eom.errors import NoiseError

MEMBERS = 4  # of a batch that are tested
LATER = 1e-3  # after a time at which commuting is tested
APART = 1e-4  # of their derivatives, between noises that commute: rounding of single precision
Coefficient = Callable[[float, State], Tensor]


class Noise(Protocol):
    """sigma of dX = b dt + sigma dW."""

    def channels(self, y: State) -> int: ...
    def __call__(self, t: float, y: State, dw: Tensor) -> State: ...
    def drag(self, t: float, y: State) -> State: ...


@dataclass(frozen=True)
class Additive:
    """Noise that does not depend on the state: ``root`` is [], [n] (one Brownian motion for each entry), or [n, m]."""

    root: float | Tensor

    def __post_init__(self) -> None:
        real = isinstance(self.root, int | float) or (isinstance(self.root, Tensor) and not self.root.is_complex())
        if not real or (isinstance(self.root, Tensor) and self.root.ndim > 2):
            raise NoiseError(f"the root is {self.root!r}, expected a number, or a real tensor [n] or [n, m]")

    def channels(self, y: State) -> int:
        return self.root.shape[-1] if isinstance(self.root, Tensor) and self.root.ndim == 2 else y.shape[-1]

    def __call__(self, t: float, y: State, dw: Tensor) -> State:
        root = self.root
        if isinstance(root, Tensor) and root.ndim == 2:
            return wanted(dw @ root.to(y).T, y, "the root", "[n, m]")
        if isinstance(root, Tensor) and root.ndim and root.shape != y.shape[-1:]:
            raise shapes("the root", root, "[], [n] or [n, m] with [n]", [y.shape[-1]])
        return wanted(dw * (root.to(y) if isinstance(root, Tensor) else root), y, "the root", "[], [n] or [n, m]")

    def drag(self, t: float, y: State) -> State:
        return torch.zeros_like(y)


@dataclass(frozen=True)
class Scalar:
    """One Brownian motion for all entries: ``column`` (t, y) -> [..., n]."""

    column: Coefficient

    def channels(self, y: State) -> int:
        return 1

    def __call__(self, t: float, y: State, dw: Tensor) -> State:
        return wanted(self.column(t, y), y, "scalar noise", "[..., n]") * dw

    def drag(self, t: float, y: State) -> State:
        column = self.column(t, y)
        return directional(lambda x: self.column(t, x), y, column)


@dataclass(frozen=True)
class Diagonal:
    """One Brownian motion for each entry: ``entries`` (t, y) -> [..., n], each a function of its own entry of y."""

    entries: Coefficient

    def channels(self, y: State) -> int:
        return y.shape[-1]

    def __call__(self, t: float, y: State, dw: Tensor) -> State:
        return wanted(self.entries(t, y), y, "diagonal noise", "[..., n]") * dw

    def drag(self, t: float, y: State) -> State:
        with torch.enable_grad():  # the Jacobian is diagonal, and its product by reverse mode the faster one
            x = y.detach().requires_grad_()
            entries = self(t, x, torch.ones_like(x))
        if not entries.requires_grad:
            return torch.zeros_like(y)
        return torch.autograd.grad(entries, x, entries.detach(), allow_unused=True, materialize_grads=True)[0]


@dataclass(frozen=True)
class General:
    """``size`` Brownian motions: ``matrix`` (t, y) -> [..., n, size]."""

    matrix: Coefficient
    size: int

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise NoiseError(f"size is {self.size!r}, expected how many Brownian motions there are, 1 or more")

    def channels(self, y: State) -> int:
        return self.size

    def __call__(self, t: float, y: State, dw: Tensor) -> State:
        matrix = self.matrix(t, y)
        if getattr(matrix, "shape", None) != (*y.shape, self.size):
            raise shapes("general noise", matrix, "[..., n, m]", [*y.shape, self.size])
        return (matrix @ dw[..., None])[..., 0]

    def drag(self, t: float, y: State) -> State:
        columns = self.matrix(t, y).unbind(-1)
        along = [directional(lambda x, j=j: self.matrix(t, x)[..., j], y, c) for j, c in enumerate(columns)]
        return torch.stack(along).sum(0)


@dataclass(frozen=True)
class LowRank:
    """``rank`` Brownian motions through a product that forms no matrix: (t, y [n], dw [rank]) -> [n], linear in dw."""

    product: Callable[[float, State, Tensor], State]
    rank: int

    def channels(self, y: State) -> int:
        return self.rank

    def __call__(self, t: float, y: State, dw: Tensor) -> State:
        return wanted(self.product(t, y, dw), y, "low-rank noise", "[n]")

    def drag(self, t: float, y: State) -> State:
        total = torch.zeros_like(y)
        for e in torch.eye(self.rank, dtype=y.dtype, device=y.device):
            e = e.expand(*y.shape[:-1], -1)
            column = self(t, y, e)
            total += directional(lambda x, e=e: self(t, x, e), y, column)
        return total


def directional(f: Callable[[State], State], y: State, v: State) -> State:
    """f'(y) v, [..., n]; for a batch, each member's along its own."""
    try:
        return jvp(f, (y.contiguous(),), (v,))[1]  # a dual of expanded memory cannot be written to
    except RuntimeError as failure:
        raise NoiseError(
            f"the noise has no derivative in the state that torch can take ({str(failure).splitlines()[0]}): take "
            "EulerMaruyama or Platen, which need none, and Ito's reading"
        ) from failure


def iterated(noise: Noise, t: float, y: State, dw: Tensor, h: float) -> State:
    """sum_jk (D sigma_k) sigma_j I_jk [..., n] for noise that commutes: (D(sigma dw)(sigma dw) - h drag) / 2."""
    if isinstance(noise, Scalar | Diagonal):
        return noise.drag(t, y) * (dw * dw - h) / 2
    return (directional(lambda x: noise(t, x, dw), y, noise(t, y, dw)) - h * noise.drag(t, y)) / 2


def of_covariance(covariance: Tensor) -> Additive:
    """Additive noise whose covariance in unit time is ``covariance`` [n, n]: its symmetric root.

    Raises:
        NoiseError: it is not symmetric, or not positive semidefinite.
    """
    if not (isinstance(covariance, Tensor) and covariance.is_floating_point() and covariance.numel()):
        raise NoiseError(f"the covariance is a {type(covariance).__name__}, expected a real tensor [n, n]")
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise NoiseError(f"the covariance has shape {list(covariance.shape)}, expected [n, n]")
    scale = float(covariance.abs().max())
    slack = 100 * torch.finfo(covariance.dtype).eps * scale * len(covariance)
    if not torch.isfinite(covariance).all():
        raise NoiseError("the covariance holds NaN or infinity, expected finite numbers")
    if float((covariance - covariance.T).abs().max()) > slack:
        raise NoiseError("the covariance is not symmetric: pass (C + C.T) / 2 if it is meant to be")
    values, vectors = torch.linalg.eigh(covariance)
    if float(values[0]) < -slack:
        raise NoiseError(
            f"the covariance has the eigenvalue {float(values[0]):.3g}, so it is that of no noise: expected a positive "
            "semidefinite matrix"
        )
    return Additive((vectors * values.clamp(min=0).sqrt()) @ vectors.T)


def require_additive(noise: Noise) -> None:
    """Raise unless the noise is known not to depend on the state."""
    if not isinstance(noise, Additive):
        raise NoiseError(
            f"this stepper is for additive noise, and came upon {type(noise).__name__}: write it as Additive(root), or "
            "take Milstein, StochasticHeun or Platen"
        )


def require_commuting(noise: Noise, t: float, y: State) -> None:
    """Raise unless (D sigma_j) sigma_k = (D sigma_k) sigma_j near ``y`` [..., n]; few members of a batch are looked at.

    Along dw and dw' the two sides are D(sigma dw)(sigma dw'), so that one pair of random vectors tells for all pairs.
    """
    if isinstance(noise, Additive | Scalar):
        return
    y = y.reshape(-1, y.shape[-1])[:MEMBERS]
    generator = torch.Generator().manual_seed(0)
    shape = (2, *y.shape[:-1], noise.channels(y))
    y = y + 0.1 * (1 + y.abs()) * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    one, other = torch.randn(shape, generator=generator, dtype=torch.float64).to(y)
    for s in (t, t + LATER):  # at t alone a factor may be zero
        there, back = (
            directional(lambda x, v=v, s=s: noise(s, x, v), y, noise(s, y, w)) for v, w in ((one, other), (other, one))
        )
        if float((there - back).abs().max()) <= APART * float(torch.maximum(there.abs(), back.abs()).max()):
            continue
        if isinstance(noise, Diagonal):
            why = "an entry of diagonal noise depends on other entries than its own: write it as General"
        else:
            why = "Milstein would need iterated integrals: take EulerMaruyama, StochasticHeun or Platen"
        raise NoiseError(f"(D sigma_j) sigma_k differs from (D sigma_k) sigma_j, so the noise does not commute; {why}")


def wanted(value: Tensor, y: State, name: str, shape: str) -> Tensor:
    """The value, if it has the shape of the state."""
    if getattr(value, "shape", None) != y.shape:
        raise shapes(name, value, shape, list(y.shape))
    if value.dtype != y.dtype:
        raise NoiseError(f"{name} gave {value.dtype}, expected {y.dtype}, that of the state")
    return value


def shapes(name: str, value: Tensor, shape: str, expected: list[int]) -> NoiseError:
    came = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    return NoiseError(f"{name} gave {came}, expected {shape} = {expected} for this state")
