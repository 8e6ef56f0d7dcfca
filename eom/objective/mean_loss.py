"""The mean of the loss over batches, and over the ranks of a process group, with its derivatives."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from eom.calculus.products import Expansion, expand, gradient_and_product, third_derivative, value_and_gradient
from eom.objective.data import Batch, Batches
from eom.objective.loss import BatchLoss
from eom.objective.shards import Shards


@dataclass(frozen=True)
class MeanLoss:
    """theta [n] -> sum_b w_b loss_b(theta) / sum_b w_b, one batch in memory at a time."""

    loss_of: Callable[[Batch], BatchLoss]
    batches: Batches
    shards: Shards | None  # of a process group, each with batches of its own

    @property
    def at_once(self) -> bool:
        """Whether there is one batch, all of it here."""
        return len(self.batches) == 1 and self.shards is None

    @property
    def first(self) -> BatchLoss:
        """The loss of the first batch."""
        return self.loss_of(self.batches.first)

    def value(self, theta: Tensor) -> Tensor:
        """[] the mean."""
        return self.over(lambda f: (f(theta).detach(),))[0]

    def gradient(self, theta: Tensor) -> Tensor:
        """[n] its gradient g."""
        return self.over(lambda f: value_and_gradient(f, theta)[1:])[0]

    def product(self, theta: Tensor, v: Tensor) -> Tensor:
        """[n] its Hessian's product with ``v``."""
        return self.over(lambda f: gradient_and_product(f, theta, lambda g: v)[1:])[0]

    def gradient_and_product(self, theta: Tensor, along: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """[n], [n] g and H ``along(g)``; a direction that depends on g takes the g of each batch."""
        g, hv = self.over(lambda f: gradient_and_product(f, theta, along))
        return g, hv

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """[n] its third derivative along ``u`` and ``v``."""
        return self.over(lambda f: (third_derivative(f, theta, u, v),))[0]

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """[], [n] the mean and g."""
        value, g = self.over(lambda f: value_and_gradient(f, theta))
        return value, g

    def expansion(self, theta: Tensor) -> Expansion:
        """To second order; one batch, on every rank, keeps its graph for further products."""
        shards = self.shards
        if self.at_once:
            return expand(self.first, theta)
        if shards is None or not shards.single:
            return Expansion(*self.value_and_gradient(theta), lambda v: self.product(theta, v))
        own = shards.everywhere(lambda: expand(self.first, theta))
        value, g = shards.mean((own.value, own.gradient))
        return Expansion(value, g, lambda v: shards.mean(shards.everywhere(lambda: (own.hvp(v),)))[0])

    def over(self, of: Callable[[BatchLoss], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The mean of what ``of`` makes of the loss of each batch."""
        shards = self.shards
        return self._own(of) if shards is None else shards.mean(shards.everywhere(lambda: self._own(of)))

    def _own(self, of: Callable[[BatchLoss], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The same over the batches of this rank."""
        total: tuple[Tensor, ...] = ()
        for w, batch in self.batches:
            parts = of(self.loss_of(batch))
            weighted = parts if w == 1 else tuple(w * x for x in parts)
            total = tuple(a + b for a, b in zip(total, weighted, strict=True)) if total else weighted
        return total
