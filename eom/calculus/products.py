"""A scalar function of one flat vector, and its first three derivatives by reverse mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from eom.calculus.exact import exact
from eom.calculus.inner import norm

ScalarFunction = Callable[[Tensor], Tensor]  # [n] -> []
T = TypeVar("T")


class InParts(Protocol):
    """A scalar function of y [n] that reads it in parts, such as a network its parameters.

    ``parts`` are views of y; ``value`` is to be called, and its result to be differentiated, in ``within``. Derivatives
    are taken by the parts, which spares copies of the whole.
    """

    def parts(self, y: Tensor) -> list[Tensor]: ...
    def within(self, parts: list[Tensor], work: Callable[[], Any]) -> Any: ...
    def value(self, parts: list[Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class Whole:
    """A plain function, which reads y as it is."""

    f: ScalarFunction

    def parts(self, y: Tensor) -> list[Tensor]:
        return [y]

    def within(self, parts: list[Tensor], work: Callable[[], Any]) -> Any:
        return work()

    def value(self, parts: list[Tensor]) -> Tensor:
        return self.f(parts[0])


class Expansion(NamedTuple):
    """A function to second order at one point: value [], gradient [n], and v [n] -> H v [n].

    ``hvp`` keeps the graph of the gradient alive, so that each further product costs one backward pass.
    """

    value: Tensor
    gradient: Tensor
    hvp: Callable[[Tensor], Tensor]


def downhill(g: Tensor, hg: Tensor) -> Expansion:
    """From a gradient g [n] and H g [n], which is overwritten: H v for v = -g only, without a graph."""
    along = hg.neg_()  # in its own memory
    return Expansion(torch.tensor(torch.nan), g, lambda v: along)


def value_and_gradient(f: ScalarFunction | InParts, y: Tensor) -> tuple[Tensor, Tensor]:
    """Value [] and gradient [n] of ``f`` at ``y`` [n]."""
    f = _in_parts(f)
    leaves = _leaves(f, y)

    def evaluate() -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            value = f.value(leaves)
            return value.detach(), _flat(_reverse(_roots([value]), leaves))

    return f.within(leaves, evaluate)


def expand(f: ScalarFunction | InParts, y: Tensor) -> Expansion:
    """Expand ``f`` at ``y`` [n] to second order by double backward; H v is exact through torch's fused operations.

    Source: Pearlmutter, Fast exact multiplication by the Hessian, Neural Comput. 6(1), 1994.
    """
    f = _in_parts(f)
    value, g, roots, leaves, order = _twice(f, y, lambda value, g, *rest: (value.detach(), _flat(g), _roots(g), *rest))

    def hvp(v: Tensor) -> Tensor:
        def product() -> Tensor:
            with exact(order):
                return _flat(_reverse(roots, leaves, _like(leaves, v), retain_graph=True))

        return f.within(leaves, product)

    return Expansion(value, g, hvp)


def gradient_and_product(
    f: ScalarFunction | InParts, y: Tensor, along: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradient g [n] of ``f`` at ``y`` [n], and H ``along(g)`` [n]; no graph is kept, which takes less memory."""

    def product(value: Tensor, g: list[Tensor], leaves: list[Tensor], order: int) -> tuple[Tensor, Tensor]:
        flat, roots = _flat(g), _roots(g)
        g.clear()
        return flat, _flat(_reverse(roots, leaves, _like(leaves, along(flat))))

    return _twice(_in_parts(f), y, product)


def _twice(f: InParts, y: Tensor, then: Callable[[Tensor, list[Tensor], list[Tensor], int], T]) -> T:
    """``then`` of value, differentiable gradient, leaves, and the order to which ``exact`` swaps for a second one."""

    def evaluate(order: int) -> T | None:
        leaves = _leaves(f, y)

        def first() -> T | None:
            with torch.enable_grad(), exact(order) as seen:
                value = f.value(leaves)
                if order == 2 and seen.differentiates:
                    return None
                return then(value, _reverse(_roots([value]), leaves, create_graph=True), leaves, order)

        return f.within(leaves, first)

    found = evaluate(2)
    return cast(T, evaluate(3)) if found is None else found  # its own derivatives come before ours


def third_derivative(f: ScalarFunction | InParts, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """T(u, v) = D^3 f[., u, v], [n]: the gradient of u . H v, by triple reverse, exact through fused operations."""
    f = _in_parts(f)
    leaves = _leaves(f, y)

    def evaluate() -> Tensor:
        with torch.enable_grad(), exact(3):
            g = _reverse(_roots([f.value(leaves)]), leaves, create_graph=True)
            hv = _reverse(_roots(g), leaves, _like(leaves, v), create_graph=True)
            return _flat(_reverse(_roots(hv), leaves, _like(leaves, u)))

    return f.within(leaves, evaluate)


def _in_parts(f: ScalarFunction | InParts) -> InParts:
    return cast(InParts, f) if hasattr(f, "within") else Whole(cast(ScalarFunction, f))


def _leaves(f: InParts, y: Tensor) -> list[Tensor]:
    """The parts of ``y`` as leaves of new graphs."""
    return [x.detach().requires_grad_() for x in f.parts(y)]


def _roots(outputs: list[Tensor]) -> list[GradientEdge | None]:
    """Where their graphs begin, without their values, which would be a copy of a large network; None without one."""
    return [get_gradient_edge(x) if x.requires_grad else None for x in outputs]


def _reverse(
    roots: list[GradientEdge | None], leaves: list[Tensor], along: list[Tensor] | None = None, **graph: bool
) -> list[Tensor]:
    """Sum over outputs of ``along`` times their derivatives by each leaf; 0 where they depend on none."""
    held = [(i, root) for i, root in enumerate(roots) if root is not None]
    if not held:  # a linear function has no Hessian, a quadratic one no T
        return [torch.zeros_like(x) for x in leaves]
    weights = None if along is None else [along[i] for i, _ in held]
    found = torch.autograd.grad([root for _, root in held], leaves, weights, allow_unused=True, **graph)
    if all(x is None for x in found):
        raise RuntimeError("the differentiated tensors appear to not have been used in the graph")
    return [torch.zeros_like(x) if d is None else d for x, d in zip(leaves, found, strict=True)]


def _flat(parts: list[Tensor]) -> Tensor:
    """All parts in one vector of its own, which shares memory with none of them."""
    return torch.cat([x.detach().reshape(-1) for x in parts])


def _like(parts: list[Tensor], y: Tensor) -> list[Tensor]:
    """``y`` [n] in views of the shapes of ``parts``."""
    return [x.view_as(p) for x, p in zip(y.split([p.numel() for p in parts]), parts, strict=True)]


def forward_difference(gradient: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """H v, [n], from one more gradient: (grad(y + e v) - g) / e with ``g`` [n] = grad(y).

    The step e |v| = sqrt(eps) |y| balances rounding against curvature: about 1e-8 of |H v| in float64, 1e-3 in
    float32. Across kinks (ReLU) it sees what a finite step sees, which is not what autodiff sees.
    """
    largest = v.abs().max()  # first, as squares of tiny numbers are 0, and of huge ones infinite
    if largest == 0:
        return torch.zeros_like(v)
    size = norm(v / largest).to(v) * largest
    e = torch.finfo(y.dtype).eps ** 0.5 * norm(y).to(y).clamp(min=1.0)
    return (gradient(y + e * (v / size)) - g) / e * size
