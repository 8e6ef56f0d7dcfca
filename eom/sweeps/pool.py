"""The runs of a sweep at work: in processes of this machine, or on the user's cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import get_active_backend

from eom.sweeps.caller import DIED
from eom.sweeps.folder import Folder
from eom.sweeps.grid import Cell

LOST = "the cluster was closed or lost before the end of it"

Work = Callable[[Cell], str]


def parallel(work: Work, cells: Sequence[Cell], jobs: int, folder: Folder) -> Iterator[tuple[Cell, str]]:
    """Yield every run that is over, with what went wrong or nothing."""
    backend: Any = get_active_backend()[0]
    if hasattr(backend, "client"):  # of dask's alone
        yield from on_cluster(backend.client, work, cells, backend.submit_kwargs)
    else:
        yield from in_processes(work, cells, jobs, folder)


def in_processes(work: Work, cells: Sequence[Cell], jobs: int, folder: Folder) -> Iterator[tuple[Cell, str]]:
    """A process that dies takes its pool with it: the runs that were at work are tried once more, each alone."""

    def pool(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str]]:
        calls = (joblib.delayed(named)(work, cell) for cell in cells)
        yield from joblib.Parallel(jobs, batch_size=1, return_as="generator_unordered")(calls)  # type: ignore[misc] - a generator, so asked

    waiting = list(cells)
    while waiting:
        try:
            for cell, why in pool(tuple(waiting), jobs):
                waiting.remove(cell)
                yield cell, why
        except TerminatedWorkerError:
            for cell in [cell for cell in waiting if folder.of(cell).exists()] or waiting[:1]:
                try:
                    found = list(pool([cell], 2))  # of one process the pool would be this one
                except TerminatedWorkerError:
                    found = [(cell, DIED)]
                waiting.remove(cell)
                yield from found


def named(work: Work, cell: Cell) -> tuple[Cell, str]:
    return cell, work(cell)


def on_cluster(client: Any, work: Work, cells: Sequence[Cell], options: dict[str, Any]) -> Iterator[tuple[Cell, str]]:
    """By dask's own client: joblib waits for ever for what dask has given up.

    That is a run given to a few workers that died, be it of another run. It is asked for anew: a run counts itself how
    often it was begun.
    """
    from distributed import KilledWorker, as_completed  # which a user with a client has
    from distributed.client import ClosedClientError

    def submitted(cell: Cell) -> Any:
        return client.submit(work, cell, pure=False, **options)

    futures = {submitted(cell): cell for cell in cells}
    ended = as_completed(futures)
    try:
        for future in ended:
            cell = futures.pop(future)
            if future.cancelled():
                yield cell, LOST
                continue
            try:
                why = future.result()
            except KilledWorker:
                futures[again := submitted(cell)] = cell
                ended.add(again)
            else:
                yield cell, why
    finally:
        with suppress(ClosedClientError):
            client.cancel(list(futures))
