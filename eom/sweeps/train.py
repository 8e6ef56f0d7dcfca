"""One run of a sweep, in whatever process it is given to."""

import multiprocessing
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eom.errors import DataError, LossNotFiniteError, TrackingWarning
from eom.objective.data import Batch, is_one_batch, length, mapped
from eom.objective.replay import Replay
from eom.records import open_run
from eom.records.manifest import DIVERGED
from eom.sweeps.caller import ATTEMPTS, DIED, Caller, begun, clear
from eom.sweeps.folder import alike, undamaged, whole
from eom.sweeps.grid import Cell
from eom.sweeps.start import Made, MakeOptimizer, Setup, make, start
from eom.tracking.track import track

ALONE = threading.RLock()


@contextmanager
def contained(threads: int, dtype: torch.dtype) -> Iterator[None]:
    """With so many threads and this default dtype; they and the global generators are afterwards as they were.

    Which they are of a process: where a worker of a cluster has several threads, they take turns.

    A loader's own processes are begun as Python does by default: joblib's way works for joblib alone.
    """
    with ALONE:
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


def run(
    setup: Setup,
    cell: Cell,
    optimizer: MakeOptimizer,
    folder: Path,
    expected: Mapping[str, Any],
    settings: Mapping[str, Any],
    caller: Caller,
) -> str:
    """Train and track one run in a new folder, in place of an unfinished one; returns what went wrong, or nothing."""
    try:
        caller.require()
        if (before := undamaged(folder)) is not None and whole(before):
            return ""  # its worker died after it, and a cluster asks another one for what is done
        if begun(folder, caller.token) > ATTEMPTS:
            return DIED
        clear(folder)
        made = make(setup, cell.seed)
        if changed := [name for name, found in start(made).items() if not alike(expected[name], found)]:
            return (
                f"setup gave other {' and '.join(changed)} than at first: it is not deterministic, or keeps state from "
                "run to run, as a model made outside of it does"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrackingWarning)  # they are among the run's events
            train(made, cell, optimizer, folder, settings, caller)
        return "" if whole(open_run(folder)) else "not all of it could be written: the disk may be full"
    except (Exception, SystemExit) as failure:  # of the user's own code, no memory, no disk: a row; others go on
        return f"{type(failure).__name__}: {failure}"


def train(
    made: Made, cell: Cell, optimizer: MakeOptimizer, folder: Path, settings: Mapping[str, Any], caller: Caller
) -> None:
    """The loop that a user would write.

    Raises:
        LossNotFiniteError: the training diverged.
    """
    model, loss_fn, data = made
    stepper = optimizer(model.parameters(), lr=cell.lr)
    with track(model, stepper, loss_fn, folder, **settings) as tracker:
        for step, batch in enumerate(islice(batches(data, cell), cell.steps)):
            caller.require()
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
