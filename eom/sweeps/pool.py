"""The runs of a sweep at work: in processes of this machine, or on the user's cluster."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import get_active_backend

from eom.errors import SweepWarning, warn_user
from eom.sweeps.caller import ATTEMPTS, DIED, LOOK, PATIENCE
from eom.sweeps.folder import Folder
from eom.sweeps.grid import Cell

LOST = "the cluster was closed, restarted or lost before the end of it: call the sweep again to go on"

Work = Callable[[Cell], str]


def parallel(work: Work, cells: Sequence[Cell], jobs: int, folder: Folder) -> Iterator[tuple[Cell, str]]:
    """Yield every run that is over, with what went wrong or nothing."""
    if (backend := cluster()) is None:
        yield from in_processes(work, cells, jobs, folder)
    else:
        yield from on_cluster(backend, work, cells)


def elsewhere(function: Callable[[Any], Any], things: Iterable[Any], jobs: int) -> list[Any]:
    """What a function makes of each of these in another process."""
    if (backend := cluster()) is None:
        return joblib.Parallel(jobs)(joblib.delayed(function)(x) for x in things)  # type: ignore[return-value] - a list, by default
    with backend.retrieval_context():
        return [future.result() for future in [asked(backend, function, x) for x in things]]


def cluster() -> Any:
    """joblib's backend on dask, if that is active; its client is asked itself, as it tells joblib of no dead worker."""
    backend = get_active_backend()[0]
    return backend if hasattr(backend, "client") else None  # which no other one has


def asked(backend: Any, function: Callable[[Any], Any], x: Any) -> Any:
    """The future of a call on the cluster, which is made even if there was the same before."""
    return backend.client.submit(function, x, **backend.submit_kwargs | {"pure": False})


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


def with_patience(ended: Any, client: Any) -> Iterator[Any]:
    """Futures as they end; told is where no worker lives that could end one, as a cluster may be without for a time."""
    looked = alive = time.monotonic()
    while not ended.is_empty():
        if ended.has_ready():
            yield next(ended)
            continue
        time.sleep(0.02)
        if (now := time.monotonic()) - looked > LOOK:
            looked = now
            with suppress(OSError):  # of a scheduler that is lost: its futures are cancelled in a moment
                if client.status != "running" or client.ncores():
                    alive = now
        if now - alive > PATIENCE:
            alive = now
            warn_user(
                f"the cluster has had no worker for {PATIENCE:g} s, and the runs wait for one: add workers, or "
                "interrupt the sweep and call it again, with another cluster or without, to go on",
                SweepWarning,
            )


def on_cluster(backend: Any, work: Work, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    """What dask gives up, as the workers it was given to died, be it of other runs, is asked for anew.

    A run counts itself how often it was begun; all runs together die no more often than each of them may.
    """
    from distributed import KilledWorker, as_completed  # which a user with a client has
    from distributed.client import ClosedClientError

    futures: dict[Any, Cell] = {}
    given_up: Counter[Cell] = Counter()
    try:
        futures |= {asked(backend, work, cell): cell for cell in cells}
        ended = as_completed(futures, loop=backend.client.loop)
        with backend.retrieval_context():
            for future in with_patience(ended, backend.client):
                cell = futures.pop(future)
                if future.cancelled():
                    yield cell, LOST
                    continue
                try:
                    yield cell, future.result()
                except KilledWorker:
                    given_up[cell] += 1
                    if given_up[cell] > ATTEMPTS * len(cells):
                        yield cell, DIED
                        continue
                    futures[again := asked(backend, work, cell)] = cell
                    ended.add(again)
    finally:
        with suppress(ClosedClientError):
            backend.client.cancel(list(futures))
