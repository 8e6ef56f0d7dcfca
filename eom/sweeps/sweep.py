"""The door of a sweep: ``eom.sweep``."""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import joblib
import torch
from rich.console import Console
from rich.live import Live

from eom.errors import EomError, FolderNotWritableError, SettingError, SweepWarning, warn_user
from eom.objective.explain import check_setup
from eom.records import Run
from eom.sweeps.caller import BEGUN, Caller
from eom.sweeps.door import check_sent, check_tracking, in_words
from eom.sweeps.folder import Folder
from eom.sweeps.grid import Cell, grid, whole_number
from eom.sweeps.live import overview
from eom.sweeps.pool import parallel
from eom.sweeps.start import MakeOptimizer, Setup, check_sizes, make, settings_of, start
from eom.sweeps.train import contained, run

SHARPNESS = 5  # records from one to the next: the edge of stability is looked for
MOST = 4096  # threads or processes


def sweep(
    setup: Setup,
    lrs: Iterable[float],
    steps: int | None = None,
    *,
    time: float | None = None,
    out: str | Path = "sweep",
    seeds: Sequence[int] = (0,),
    batch_sizes: Sequence[int | None] = (None,),
    optimizers: Sequence[str] | Mapping[str, MakeOptimizer] = ("SGD",),
    jobs: int | None = None,
    threads: int | None = None,
    console: Console | None = None,
    **settings: Any,
) -> list[Run]:
    """Train one model at many learning rates, tracked, in parallel; killed, and called again, it goes on.

    Runs of the same seed start at the same parameters. Each is a folder in ``out``, as ``eom.track`` writes it. A run
    that fails does not stop the others; it is tried again at the next call, unless it diverged.

    Args:
        setup: () -> (model, loss_fn, data), called for every run after its seed was set. Data: one batch, or a
            re-iterable of batches, which are passed again and again.
        lrs: learning rates. steps: of every run; or ``time``, the sum of learning rates that each is to reach.
        seeds: of torch's, Python's and numpy's generators, and of the batches.
        batch_sizes: cut the data, one batch, into batches of this size, shuffled anew in each pass.
        optimizers: names in ``torch.optim``, or {name: (parameters, lr=) -> optimizer}.
        jobs: runs at once, as many as there are cores by default; a ``joblib.parallel_config`` around the call, such
            as that of a dask cluster, is used, where each worker takes one run at a time. threads: of each run; by
            default the cores are used once.
        console: where the table of runs is shown. settings: those of ``eom.track``, with sharpness=5 by default, as
            the edge of stability is looked for.

    Returns:
        The runs in the order of the grid: learning rates falling, then seeds, batch sizes, optimizers. One that failed
        before its first record is not among them; ``SweepWarning`` says which and why.

    Raises:
        SettingError: a rate that is no positive number, or twice the same; a setup that cannot be called, or not be
            imported in another process.
        FolderInUseError, FolderUsedError, FolderNotWritableError: ``out`` cannot be used.
    """
    cells = grid(lrs, steps, time, seeds, batch_sizes, optimizers)
    makers = optimizers if isinstance(optimizers, Mapping) else {name: in_torch(name) for name in optimizers}
    check_setup(setup)
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None:
            whole_number(name, value, 1, MOST)
    if not isinstance(out, str | PathLike) or out == "":
        raise SettingError(f"out is {out!r}, expected the name of a folder")
    settings = {"sharpness": SHARPNESS} | settings
    check_tracking(settings)
    dtype, path, starts = torch.get_default_dtype(), Path(out).absolute(), {}  # of this process, for the others too
    at_once = min(joblib.effective_n_jobs(jobs or -1), len(cells))  # type: ignore[call-overload] - untyped
    threads = threads or max(1, joblib.cpu_count() // at_once)
    rates = dict.fromkeys(cell.lr for cell in cells)
    with contained(threads, dtype):  # as in the runs, so that their losses are the same
        for seed in dict.fromkeys(cell.seed for cell in cells):
            with explained():
                made = make(setup, seed)
                starts[f"start with seed {seed}"] = start(made)
            check_sizes(made[2], batch_sizes)
        for name, maker in makers.items():
            at = {f"optimizer {name} at {lr!r}": settings_of(name, maker, made[0], lr) for lr in rates}
            starts |= at
    asked = {
        "steps": steps,
        "time": time,
        "loss_fn": in_words(made[1]),
        "settings": {k: in_words(v) for k, v in sorted(settings.items())},
    }
    folder = Folder(path, asked, starts, [cell.name for cell in cells])
    check_sent(setup, makers, at_once)
    caller = Caller()

    def work(cell: Cell) -> str:
        with contained(threads, dtype):
            expected = starts[f"start with seed {cell.seed}"]
            return run(setup, cell, makers[cell.optimizer], folder.of(cell), expected, settings, caller)

    with folder.held():
        over = {cell: why for cell in cells if (why := folder.outcome(cell)) is not None}
        folders = {cell: folder.of(cell) for cell in cells}
        shown = Live(get_renderable=lambda: overview(cells, folders, over), console=console, refresh_per_second=2)
        with shown, warnings.catch_warnings():
            # what a worker has kept of finished runs goes with it
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            for cell, why in parallel(work, [cell for cell in cells if cell not in over], at_once, folder):
                over[cell] = why
        if not shown.console.is_terminal:
            shown.console.line()  # which only a terminal gets after a live table
        shutil.rmtree(path / BEGUN, ignore_errors=True)
        try:
            folder.write({cell.name: why for cell, why in over.items() if why})
        except FolderNotWritableError as full:  # now that all is trained
            warn_user(str(full), SweepWarning)
    if failed := {cell.name: why for cell, why in over.items() if why}:
        alike = {why: ", ".join(name for name in failed if failed[name] == why) for why in failed.values()}
        said = "; ".join(f"{names}: {why}" for why, names in alike.items())
        warn_user(f"{len(failed)} of {len(cells)} runs failed. {said}", SweepWarning)
    return [found for cell in cells if (found := folder.run(cell)) is not None]


@contextmanager
def explained() -> Iterator[None]:
    """Say that an error is of the setup, or of the loss that it returns.

    Raises:
        SettingError: in place of any error that is not this package's own.
    """
    try:
        yield
    except EomError:
        raise
    except Exception as error:
        raise SettingError(f"setup, or the loss that it returns, raised {type(error).__name__}: {error}") from error


def in_torch(name: str) -> MakeOptimizer:
    """The optimizer of this name."""
    found = getattr(torch.optim, str(name), None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise SettingError(f"there is no optimizer {name!r} in torch.optim, expected a name like SGD or Adam")
    return found
