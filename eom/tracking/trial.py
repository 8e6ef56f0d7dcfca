"""Trials of the loss before the first step; what fails them is refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from eom.errors import DataError, LossNotDifferentiableError, LossNotFiniteError
from eom.objective import Objective
from eom.objective.data import Batches
from eom.objective.loss import LossFunction
from eom.objective.replay import Replay
from eom.tracking.snapshot import Pass


def check_batch(batch: Any) -> None:
    """Raise where a batch can be read once only."""
    if isinstance(batch, Iterator):
        raise DataError(
            f"the batch is a {type(batch).__name__}, which can be read once; the loss is evaluated again and again. "
            "Pass what it yields."
        )


def check_first(value: Tensor) -> None:
    """Raise unless a training can begin with this loss."""
    if not bool(torch.isfinite(value)):
        raise LossNotFiniteError(
            f"the loss is {value.item()} before the first step, expected a finite number: look at the data for NaN, "
            "and at logarithms and divisions in the loss"
        )
    if not value.requires_grad:
        raise LossNotDifferentiableError(
            "the loss does not depend on any trainable parameter through differentiable operations: .detach(), .item() "
            "or torch.no_grad() in the loss function is the usual cause"
        )


def moves_with_buffers(model: nn.Module, loss_fn: LossFunction, before: Pass, after: Replay, value: Tensor) -> bool:
    """Whether a loss depends on buffers that its own forward pass, ``before`` to ``after``, has changed.

    BatchNorm's running statistics change too, but in training its loss does not depend on them.
    """
    replay = replace(before.replay, buffers=after.buffers)
    objective = Objective(model, loss_fn, Batches(before.batch, single=True), replay=replay)
    again = objective.loss(objective.theta())
    limit = 1e3 * torch.finfo(again.dtype).eps
    return not torch.allclose(again, value.detach().reshape(()).to(again), rtol=limit, atol=0.0)
