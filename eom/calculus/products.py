"""A scalar function of one flat vector, and its first three derivatives by reverse mode."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ScalarFunction = Callable[[Tensor], Tensor]  # [n] -> []


class Expansion(NamedTuple):
    """A function to second order at one point: value [], gradient [n], and v [n] -> H v [n].

    ``hvp`` keeps the graph of the gradient alive, so that each further product costs one backward pass.
    """

    value: Tensor
    gradient: Tensor
    hvp: Callable[[Tensor], Tensor]


class Potential(Protocol):
    """What a gradient flow needs of the function it descends."""

    def loss(self, theta: Tensor) -> Tensor: ...
    def gradient(self, theta: Tensor) -> Tensor: ...
    def expansion(self, theta: Tensor) -> Expansion: ...
    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor: ...


def value_and_gradient(f: ScalarFunction, y: Tensor) -> tuple[Tensor, Tensor]:
    """Value [] and gradient [n] of ``f`` at ``y`` [n]."""
    y = y.detach().requires_grad_()
    with torch.enable_grad():
        value = f(y)
        (g,) = torch.autograd.grad(value, y)
    return value.detach(), g


def expand(f: ScalarFunction, y: Tensor) -> Expansion:
    """Expand ``f`` at ``y`` [n] to second order by double backward.

    The function is evaluated with plain attention: the fused kernels have no second derivative.

    Source: Pearlmutter, Fast exact multiplication by the Hessian, Neural Comput. 6(1), 1994.
    """
    y = y.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        value = f(y)
        (g,) = torch.autograd.grad(value, y, create_graph=True)

    def hvp(v: Tensor) -> Tensor:
        if not g.requires_grad:  # f is linear
            return torch.zeros_like(y)
        return torch.autograd.grad(g, y, v, retain_graph=True)[0]

    return Expansion(value.detach(), g.detach(), hvp)


def third_derivative(f: ScalarFunction, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """T(u, v) = D^3 f[., u, v], [n]: the gradient of u . H v, by triple reverse.

    Wrong by 1-50 % through torch's LayerNorm and train-mode BatchNorm, whose fused second derivatives are
    not differentiable again; ``Objective.check`` finds out.
    """
    y = y.detach().requires_grad_()
    zero = torch.zeros_like(y)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        (g,) = torch.autograd.grad(f(y), y, create_graph=True)
        if not g.requires_grad:  # f is linear
            return zero
        (hv,) = torch.autograd.grad(g, y, v, create_graph=True)
        if not hv.requires_grad:  # f is quadratic
            return zero
        return torch.autograd.grad(hv, y, u)[0]


@dataclass(frozen=True)
class Function:
    """A plain scalar function [n] -> [] as a potential; three times differentiable."""

    f: ScalarFunction

    def loss(self, theta: Tensor) -> Tensor:
        return self.f(theta)

    def gradient(self, theta: Tensor) -> Tensor:
        return value_and_gradient(self.f, theta)[1]

    def expansion(self, theta: Tensor) -> Expansion:
        return expand(self.f, theta)

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return third_derivative(self.f, theta, u, v)


def forward_difference(gradient: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """H v, [n], from one more gradient: (grad(y + e v) - g) / e with ``g`` [n] = grad(y).

    The step e |v| = sqrt(eps) |y| balances rounding against curvature: about 1e-8 of |H v| in float64, 1e-3 in
    float32. Across kinks (ReLU) it sees what a finite step sees, which is not what autodiff sees.
    """
    size = v.norm()
    if size == 0:
        return torch.zeros_like(v)
    e = torch.finfo(y.dtype).eps ** 0.5 * y.norm().clamp(min=1.0) / size
    return (gradient(y + e * v) - g) / e


@dataclass(frozen=True)
class Mean:
    """The mean of several potentials, one in memory at a time."""

    parts: tuple[Potential, ...]

    def loss(self, theta: Tensor) -> Tensor:
        return self._mean(p.loss(theta) for p in self.parts)

    def gradient(self, theta: Tensor) -> Tensor:
        return self._mean(p.gradient(theta) for p in self.parts)

    def expansion(self, theta: Tensor) -> Expansion:
        def hvp(v: Tensor) -> Tensor:
            return self._mean(p.expansion(theta).hvp(v) for p in self.parts)

        return Expansion(self.loss(theta), self.gradient(theta), hvp)

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._mean(p.third(theta, u, v) for p in self.parts)

    def _mean(self, values: Iterable[Tensor]) -> Tensor:
        return reduce(torch.add, values) / len(self.parts)


@dataclass(frozen=True)
class Pinned:
    """A potential at one point, where it has been expanded already."""

    potential: Potential
    at: Expansion

    def loss(self, theta: Tensor) -> Tensor:
        return self.at.value

    def gradient(self, theta: Tensor) -> Tensor:
        return self.at.gradient

    def expansion(self, theta: Tensor) -> Expansion:
        return self.at

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.potential.third(theta, u, v)
