"""What the runs of a sweep begin with, made anew for each and known again by hashes."""

import random
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.errors import DataError, LossNotFiniteError, SettingError
from eom.objective import Objective
from eom.objective.data import Batch, digest, is_one_batch, length, tensors
from eom.tracking.description import describe_optimizer, fingerprint
from eom.tracking.snapshot import generators_of, kept_generators

Made = tuple[nn.Module, Callable[[nn.Module, Batch], Tensor], Any]
Setup = Callable[[], Made]
MakeOptimizer = Callable[..., Optimizer]  # (parameters, lr=)


def make(setup: Setup, seed: int) -> Made:
    """(model, loss_fn, data), the global generators seeded before.

    Raises:
        SettingError: setup returns something else.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    made = setup()
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module)):
        raise SettingError(f"setup returned a {type(made).__name__}, expected (model, loss_fn, data)")
    return made


def start(made: Made) -> dict[str, Any]:
    """What a run begins with: its loss, and SHA-256 of parameters, model, first batch and what else can be seen.

    Raises:
        SettingError: the data can be passed once only, or is empty. LossNotFiniteError, and other ``EomError``s: the
            loss is none that can be trained and tracked.
    """
    model, loss_fn, data = made
    found = {"generator state": digest([torch.get_rng_state()])}
    if type(data) is list:
        found["batches"] = digest([x for batch in data for x in tensors(batch)])
    with kept_generators(generators_of(data)):  # a loader draws from them, and the run is to begin with these
        first = first_batch(data)
    objective = Objective(model, loss_fn, first)
    loss = objective.loss(objective.theta()).item()
    if not isfinite(loss):
        raise LossNotFiniteError(f"the loss of the first batch is {loss} at the start: there is nothing to train")
    return found | fingerprint(objective.model, first) | {"loss": loss}


def settings_of(name: str, optimizer: MakeOptimizer, model: nn.Module, lr: float) -> dict[str, Any]:
    """Class and settings of what a factory of optimizers makes at this learning rate.

    Raises:
        SettingError: it makes none, or one of another rate.
    """
    wanted = "expected a function (parameters, lr=) that returns a torch.optim.Optimizer"
    try:
        made = optimizer(model.parameters(), lr=lr)
    except Exception as error:  # of the user's own code
        raise SettingError(f"optimizer {name} cannot be made ({type(error).__name__}: {error}), {wanted}") from error
    if not isinstance(made, Optimizer):
        raise SettingError(f"optimizer {name} is a {type(made).__name__}, {wanted}")
    if isinstance(made, torch.optim.LBFGS):
        raise SettingError(f"optimizer {name} is LBFGS, whose step takes a closure: a sweep's loop calls step() alone")
    found = describe_optimizer(made)
    if found["reference_lr"] != lr:
        raise SettingError(
            f"optimizer {name} has {found['reference_lr']:g} for its largest learning rate where {lr:g} was asked for: "
            "hand lr to the group that learns fastest, and smaller ones to others"
        )
    return found["optimizer_settings"] | {"class": found["optimizer"]}


def first_batch(data: Any) -> Batch:
    """Of data that can be passed again and again.

    Raises:
        SettingError: it can be passed once only, or is empty.
    """
    if is_one_batch(data):
        return data
    if hasattr(data, "__next__"):
        raise SettingError(
            f"the data is a {type(data).__name__}, which can be passed once: let setup return one batch, a list of "
            "batches, or a DataLoader"
        )
    for batch in data:
        return batch
    raise SettingError(f"the data, a {type(data).__name__}, is empty: let setup return one batch or more")


def check_sizes(data: Any, sizes: Iterable[int | None]) -> None:
    """Raise unless batches of these sizes can be cut from the data.

    Raises:
        DataError: a batch size is asked for, and the data is no batch to be cut. SettingError: it is larger.
    """
    largest = max((size for size in sizes if size), default=0)
    if not largest:
        return
    samples = int(length(data)) if is_one_batch(data) else 0
    if not samples or not all(x.ndim and len(x) == samples for x in tensors(data)):
        raise DataError(
            "batch sizes are swept, and the data is not one batch of tensors with a row for each sample: leave "
            "batch_sizes out, or let setup return one such batch"
        )
    if largest > samples:
        raise SettingError(f"batch_sizes holds {largest}, more than the {samples} samples of the data")
