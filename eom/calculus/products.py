"""A scalar function of one flat vector, and its first three derivatives by reverse mode."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from eom.calculus.exact import exact

ScalarFunction = Callable[[Tensor], Tensor]  # [n] -> []
Within = Callable[[Tensor, Callable[[], Any]], Any]  # (y, work) -> work(), where f can be evaluated at y


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


def directly(y: Tensor, work: Callable[[], Any]) -> Any:
    """Of a plain function, which can be evaluated anywhere."""
    return work()


def value_and_gradient(f: ScalarFunction, y: Tensor, within: Within = directly) -> tuple[Tensor, Tensor]:
    """Value [] and gradient [n] of ``f`` at ``y`` [n]."""
    y = y.detach().requires_grad_()

    def evaluate() -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            value = f(y)
            (g,) = torch.autograd.grad(value, y)
        return value.detach(), g

    return within(y, evaluate)


def expand(f: ScalarFunction, y: Tensor, within: Within = directly) -> Expansion:
    """Expand ``f`` at ``y`` [n] to second order by double backward; H v is exact through torch's fused operations.

    Source: Pearlmutter, Fast exact multiplication by the Hessian, Neural Comput. 6(1), 1994.
    """
    y = y.detach().requires_grad_()

    def evaluate() -> tuple[Tensor, Tensor]:
        with torch.enable_grad(), exact(2):
            value = f(y)
            (g,) = torch.autograd.grad(value, y, create_graph=True)
        return value.detach(), g

    value, g = within(y, evaluate)

    def product(v: Tensor) -> Tensor:
        with exact(2):
            return torch.autograd.grad(g, y, v, retain_graph=True)[0]

    def hvp(v: Tensor) -> Tensor:
        return within(y, lambda: product(v)) if g.requires_grad else torch.zeros_like(y)  # f is linear

    return Expansion(value, g.detach(), hvp)


def third_derivative(f: ScalarFunction, y: Tensor, u: Tensor, v: Tensor, within: Within = directly) -> Tensor:
    """T(u, v) = D^3 f[., u, v], [n]: the gradient of u . H v, by triple reverse, exact through fused operations."""
    y = y.detach().requires_grad_()

    def evaluate() -> Tensor:
        with torch.enable_grad(), exact(3):
            (g,) = torch.autograd.grad(f(y), y, create_graph=True)
            if not g.requires_grad:  # f is linear
                return torch.zeros_like(y)
            (hv,) = torch.autograd.grad(g, y, v, create_graph=True)
            if not hv.requires_grad:  # f is quadratic
                return torch.zeros_like(y)
            return torch.autograd.grad(hv, y, u)[0]

    return within(y, evaluate)


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
