"""SVAG on a user's own training: is the view of SGD as a stochastic equation credible for it?"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from eom.analysis.compare import check_wanted
from eom.analysis.svag import WANTED, Svag, read
from eom.errors import DataError, SettingError
from eom.objective import Objective
from eom.objective.data import Batch, Batches, is_one_batch, length, mapped
from eom.stochastic.batches import svag_weights
from eom.sweeps.grid import whole_number
from eom.sweeps.start import Made, Setup, make
from eom.sweeps.sweep import sweep

REFINEMENTS, SEEDS = (1, 2, 4), tuple(range(8))


@dataclass(frozen=True)
class Pairs:
    """Endless pairs of independent batches of ``size``, each without repeated samples, from a seed."""

    data: Batch
    size: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        generator, samples = torch.Generator().manual_seed(self.seed), int(length(self.data))
        while True:
            first, second = (torch.randperm(samples, generator=generator)[: self.size] for _ in range(2))
            yield (
                mapped(self.data, lambda x, rows=first: x[rows.to(x.device)]),
                mapped(self.data, lambda x, rows=second: x[rows.to(x.device)]),
            )


@dataclass(frozen=True)
class PairLoss:
    """a loss(batch_1) + (1 - a) loss(batch_2), whose gradient is that of SVAG."""

    loss_fn: Callable[[nn.Module, Batch], Tensor]
    refinement: int

    def __call__(self, model: nn.Module, pair: tuple[Batch, Batch]) -> Tensor:
        a, b = svag_weights(self.refinement)
        first = self.loss_fn(model, pair[0])
        return a * first + b * self.loss_fn(model, pair[1]) if b else first


@dataclass(frozen=True)
class WholeLoss:
    """A quantity for the tracker: the loss of all data."""

    data: Batch
    every: int = 1
    name: str = "whole_loss"
    units: dict[str, str] = field(default_factory=lambda: {"whole_loss": "loss"})

    def check(self, objective: Objective) -> None:
        pass

    def __call__(self, objective: Objective, theta: Tensor) -> Iterator[tuple[str, float, None]]:
        whole = objective.replaced(product=objective.product, data=Batches((self.data, self.data), single=True))
        yield self.name, float(whole.mean_loss.value(theta)), None


@dataclass(frozen=True)
class Refined:
    """A setup for the training by SVAG: the same start for every seed, and batches from the seed."""

    setup: Setup
    refinement: int
    batch_size: int

    def __call__(self) -> Made:
        seed = torch.initial_seed()
        model, loss_fn, data = make(self.setup, 0)
        torch.manual_seed(seed)
        return model, PairLoss(loss_fn, self.refinement), Pairs(data, self.batch_size, seed)


def svag(
    setup: Setup,
    lr: float,
    steps: int,
    *,
    batch_size: int,
    refinements: Sequence[int] = REFINEMENTS,
    seeds: Sequence[int] = SEEDS,
    out: str | Path = "svag",
    every: int | None = None,
    wanted: float = WANTED,
    console: Console | None = None,
    **settings: Any,
) -> Svag:
    """Train by SVAG_l for l = 1 (SGD), 2, 4, and say whether the stochastic equation describes this training.

    All of them start at the same parameters, take ``steps`` x l steps of lr / l on pairs of random batches, and have
    the equation of SGD for their limit. Where expectations of the loss and of the norms change with l, it does not
    describe SGD at this learning rate and batch size. Epochs of shuffled batches, momentum and weight decay are not
    looked at.

    Args:
        setup: () -> (model, loss_fn, data), data one batch of all samples. lr: learning rate of SGD.
        steps: of SGD. batch_size: of SGD, drawn without repetition, one batch independent of the other.
        seeds: of the batches: means over them have confidence intervals. out: folder of the runs; called again it goes
            on. every: steps of SGD from one record to the next, a divisor of ``steps``, so that the end is recorded; by
            default one near a twentieth of them. wanted: share of a quantity's change by which its
            expectation may differ. settings: those of ``eom.sweep``.

    Returns:
        The comparison: ``verdict``, ``table()``, ``report(out)``.

    Raises:
        DataError: the data is not one batch, or smaller than the batch size.
        SettingError: a refinement or number of seeds outside what it may be; others as ``eom.sweep``.
    """
    levels = [whole_number("refinements", level, 1) for level in refinements]
    if 1 not in levels or len(set(levels)) < 2 or len(set(levels)) < len(levels):
        raise SettingError(f"refinements is {list(refinements)}, expected 1 (SGD itself) and one or more others")
    if isinstance(seeds, int) or len(seeds := list(seeds)) < 3:
        raise SettingError(f"seeds is {seeds}, expected 3 or more, such as range(8): their scatter gives the intervals")
    if "optimizers" in settings:
        raise SettingError("svag trains by plain SGD, whose equation it is about: leave optimizers out")
    whole_number("batch_size", batch_size, 1)
    whole_number("steps", steps, 2)
    every = spacing(steps) if every is None else whole_number("every", every, 1)
    if steps % every or steps == every:
        raise SettingError(
            f"every is {every} and steps {steps}, expected a smaller divisor, so that the end is recorded"
        )
    check_wanted(wanted)
    data = make(setup, 0)[2]
    if not is_one_batch(data) or length(data) < batch_size:
        size = f"of {int(length(data))} samples" if is_one_batch(data) else "not one batch"
        raise DataError(f"the data is {size}, expected one batch of {batch_size} samples or more")
    runs = {}
    for level in levels:
        folder = Path(out) / f"l-{level}"
        quantities = [WholeLoss(data), *settings.get("quantities", ())]
        settings_of: dict[str, Any] = {"order": None, "sharpness": 0} | settings | {"quantities": quantities}
        refined = Refined(setup, level, batch_size)
        runs[level] = sweep(  # one step more, before which the end is recorded
            refined, [lr / level], steps * level + 1, out=folder, seeds=seeds, every=every * level, console=console,
            **settings_of,
        )  # fmt: skip
    return read(runs, Path(out), wanted, len(seeds))


def spacing(steps: int) -> int:
    """The divisor of ``steps``, smaller than it, that is nearest to a twentieth, by ratio."""
    divisors = [d for d in range(1, steps // 2 + 1) if steps % d == 0]
    return min(divisors, key=lambda d: abs(math.log(20 * d / steps)))
