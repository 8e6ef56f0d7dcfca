"""Gradients of random batches, from a counter: SGD and SVAG as steppers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eom.calculus.products import value_and_gradient
from eom.dynamics.brownian import stream
from eom.dynamics.field import State
from eom.errors import DataError, SettingError
from eom.objective import Objective
from eom.objective.data import Batch, length, mapped


class Sampled(Protocol):
    """A field that is known by samples: the k-th one at a state [..., n]."""

    def sample(self, k: int, y: State) -> State: ...


def require_batches(objective: Objective, size: int) -> None:
    """Raise unless random batches of this size can be drawn.

    Raises:
        DataError: they are empty or larger than the data, or the data is not one batch.
    """
    if len(objective.batches) > 1:
        raise DataError("random batches are drawn from one batch of all data: put the batches together")
    samples = int(objective.batches.total)
    if type(size) is not int or not 1 <= size <= samples:
        raise DataError(f"the batch size is {size!r}, expected a whole number from 1 to the {samples} samples")


def draw(objective: Objective, size: int, seed: int, k: int, member: int, *, replacement: bool) -> Batch:
    """The k-th random batch of ``size`` samples of an objective's data, for one member of an ensemble."""
    generator, samples = torch.Generator().manual_seed(stream(seed, member, k)), int(objective.batches.total)
    rows = torch.randint(samples, (size,), generator=generator) if replacement else None
    rows = torch.randperm(samples, generator=generator)[:size] if rows is None else rows
    whole = objective.batches.first
    count = int(length(whole))
    return mapped(whole, lambda x: x[rows.to(x.device)] if x.ndim and len(x) == count else x)


def each(f: Callable[[int, Tensor], Tensor], y: Tensor) -> Tensor:
    """f(i, x) of every member x [n] of y [..., n]."""
    found = torch.stack([f(i, x) for i, x in enumerate(y.reshape(-1, y.shape[-1]))])
    return found.reshape(*y.shape[:-1], *found.shape[1:])


@dataclass(frozen=True)
class BatchGradient:
    """-grad L_k over the k-th random batch of ``size``, of its own for each member of [b, n]; by default without
    replacement.
    """

    objective: Objective
    size: int
    seed: int = 0
    replacement: bool = False

    def __post_init__(self) -> None:
        require_batches(self.objective, self.size)

    def sample(self, k: int, y: State) -> State:
        own = self.objective

        def slope(member: int, x: Tensor) -> Tensor:
            loss = own.loss_of(draw(own, self.size, self.seed, k, member, replacement=self.replacement))
            return -value_and_gradient(loss, x)[1] - own.decay.to(x) * x

        return each(slope, y)


@dataclass(frozen=True)
class SVAG:
    """y <- y + h (a f_{2k} + (1 - a) f_{2k+1}), a = (1 + sqrt(2 l - 1)) / 2, with independent samples f_j of a field.

    ``refinement`` is l. Marched with h = eta / l, l = 1 is SGD with learning rate eta; for every l the noise in unit
    time is that of SGD, and for l to infinity the march is the SDE.

    Source: Li, Malladi & Arora, NeurIPS 2021, def. 4.1.
    """

    refinement: int = 1

    def __post_init__(self) -> None:
        if type(self.refinement) is not int or self.refinement < 1:
            raise SettingError(f"refinement is {self.refinement!r}, expected 1, 2, ...")

    def init(self, y: State) -> int:
        return 0

    def step(self, field: Sampled, t: float, h: float, y: State, carry: int) -> tuple[State, int]:
        if not hasattr(field, "sample"):
            raise SettingError(f"SVAG was given a {type(field).__name__}, expected a BatchGradient or its like")
        a, b = svag_weights(self.refinement)
        move = a * field.sample(2 * carry, y)
        if b:
            move = move + b * field.sample(2 * carry + 1, y)
        return y + h * move, carry + 1


def svag_weights(refinement: int) -> tuple[float, float]:
    """(1 +- sqrt(2 l - 1)) / 2, which sum to 1 and whose squares sum to l."""
    root = math.sqrt(2 * refinement - 1)
    return (1 + root) / 2, (1 - root) / 2
