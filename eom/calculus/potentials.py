"""Functions that a gradient flow can descend: plain ones, means, and one that is known at a point."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from eom.calculus.products import Expansion, ScalarFunction, expand, third_derivative, value_and_gradient


class Potential(Protocol):
    """What a gradient flow needs of the function it descends."""

    def loss(self, theta: Tensor) -> Tensor: ...
    def gradient(self, theta: Tensor) -> Tensor: ...
    def expansion(self, theta: Tensor) -> Expansion: ...
    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor: ...


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
