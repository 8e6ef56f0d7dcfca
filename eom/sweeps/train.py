"""One run of a sweep, in whatever process it is given to."""

import multiprocessing
import random
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.errors import DataError, LossNotFiniteError, SettingError, TrackingWarning
from eom.objective import Objective
from eom.objective.data import Batch, digest, is_one_batch, length, mapped, tensors
from eom.objective.replay import Replay
from eom.records import open_run
from eom.sweeps.folder import DIVERGED, alike, whole
from eom.sweeps.grid import Cell
from eom.tracking.description import describe_optimizer, fingerprint
from eom.tracking.snapshot import generators_of, kept_generators
from eom.tracking.track import track

Made = tuple[nn.Module, Callable[[nn.Module, Batch], Tensor], Any]
Setup = Callable[[], Made]
MakeOptimizer = Callable[..., Optimizer]  # (parameters, lr=)


@contextmanager
def contained(threads: int, dtype: torch.dtype) -> Iterator[None]:
    """With so many threads and this default dtype; they and the global generators are afterwards as they were.

    A loader's own processes are begun as Python does by default: joblib's way works for joblib alone.
    """
    before = torch.get_num_threads(), torch.get_default_dtype()
    method = multiprocessing.get_start_method(allow_none=True)
    if method == "loky":
        multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type] - which is the default
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    try:
        with Replay.capture(nn.Module()).states(outside=True):
            yield
    finally:
        if method == "loky":
            multiprocessing.set_start_method(method, force=True)
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])


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
        SettingError: the data can be passed once only, or is empty. EomError: the loss is none that can be tracked.
    """
    model, loss_fn, data = made
    constants = [*model.buffers(), *(p for p in model.parameters() if not p.requires_grad)]
    found = {"buffers": digest(constants), "generator state": digest([torch.get_rng_state()])}
    if type(data) is list:
        found["batches"] = digest([x for batch in data for x in tensors(batch)])
    with kept_generators(generators_of(data)):  # a loader draws from them, and the run is to begin with these
        first = first_batch(data)
    objective = Objective(model, loss_fn, first)
    return found | fingerprint(objective.model, first) | {"loss": objective.loss(objective.theta()).item()}


def settings_of(name: str, optimizer: MakeOptimizer, model: nn.Module) -> dict[str, Any]:
    """Class and settings of what a factory of optimizers makes, but for the learning rate.

    Raises:
        SettingError: it makes none.
    """
    wanted = "expected a function (parameters, lr=) that returns a torch.optim.Optimizer"
    try:
        made = optimizer(model.parameters(), lr=1.0)
    except Exception as error:  # of the user's own code
        raise SettingError(f"optimizer {name} cannot be made ({type(error).__name__}: {error}), {wanted}") from error
    if not isinstance(made, Optimizer):
        raise SettingError(f"optimizer {name} is a {type(made).__name__}, {wanted}")
    found = describe_optimizer(made)
    settings = {k: v for k, v in found["optimizer_settings"].items() if k not in ("lr", "initial_lr")}
    return settings | {"class": found["optimizer"]}


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


def run(
    setup: Setup,
    cell: Cell,
    optimizer: MakeOptimizer,
    folder: Path,
    expected: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> str:
    """Train and track one run in a new folder, in place of an unfinished one; returns what went wrong, or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made = make(setup, cell.seed)
        if changed := [name for name, found in start(made).items() if not alike(expected[name], found)]:
            return (
                f"setup gave other {' and '.join(changed)} than at first: it is not deterministic, or keeps state from "
                "run to run, as a model made outside of it does"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrackingWarning)  # they are among the run's events
            train(made, cell, optimizer, folder, settings)
        return "" if whole(open_run(folder)) else "not all of it could be written: the disk may be full"
    except (Exception, SystemExit) as failure:  # of the user's own code, no memory, no disk: a row; others go on
        return f"{type(failure).__name__}: {failure}"


def train(made: Made, cell: Cell, optimizer: MakeOptimizer, folder: Path, settings: Mapping[str, Any]) -> None:
    """The loop that a user would write.

    Raises:
        LossNotFiniteError: the training diverged.
    """
    model, loss_fn, data = made
    stepper = optimizer(model.parameters(), lr=cell.lr)
    with track(model, stepper, loss_fn, folder, **settings) as tracker:
        for step, batch in enumerate(islice(batches(data, cell), cell.steps)):
            stepper.zero_grad()
            loss = tracker.loss(batch)
            if not torch.isfinite(loss):
                raise LossNotFiniteError(f"the loss is {loss.item()} at step {step}: {DIVERGED}")
            loss.backward()
            stepper.step()


def batches(data: Any, cell: Cell) -> Iterator[Batch]:
    """The data again and again; or batches of this size, drawn anew in each pass from the cell's seed.

    Raises:
        DataError: a pass is empty.
    """
    if cell.batch_size is None:
        while True:
            passed = False
            for batch in [data] if is_one_batch(data) else data:
                passed = True
                yield batch
            if not passed:
                raise DataError(f"a pass over the data, a {type(data).__name__}, gave no batch: it can be passed once")
    generator = torch.Generator().manual_seed(cell.seed)
    while True:
        for rows in torch.randperm(int(length(data)), generator=generator).split(cell.batch_size):
            yield mapped(data, lambda x, rows=rows: x[rows.to(x.device)])
