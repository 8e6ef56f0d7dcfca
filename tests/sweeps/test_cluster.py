"""A sweep on a dask cluster of the user's own."""

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import joblib
import pytest
import setups
import torch
from test_sweep import content

import eom
from eom.errors import SweepWarning
from eom.sweeps import pool

dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")

LRS = [0.05, 0.1, 0.2, 0.4]


@contextmanager
def local_cluster(workers: int = 2, threads: int = 1, **options):
    """The client of a cluster on this machine, with the setups."""
    with (
        distributed.LocalCluster(
            workers, threads_per_worker=threads, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, **options) as client,
    ):
        client.upload_file(setups.__file__, load=False)  # this process has it, and is to keep its own
        yield client


@pytest.mark.slow
def test_the_runs_of_a_worker_that_is_killed_are_done_again(tmp_path):
    """On two worker processes, of which one is killed while it trains."""
    settings = {"steps": 4000, "every": 5, "order": None, "threads": 1}
    with local_cluster() as client:
        workers = dict(client.run(os.getpid))
        killed = threading.Thread(target=kill_one_at_work, args=(tmp_path / "sweep", list(workers.values())))
        killed.start()
        with joblib.parallel_config(backend="dask"):
            runs = eom.sweep(setups.plain, LRS, out=tmp_path / "sweep", **settings)
        killed.join()
        assert set(dict(client.run(os.getpid)).values()) != set(workers.values())
    assert all("finished" in run.manifest for run in runs)
    own = eom.sweep(setups.plain, LRS, out=tmp_path / "own", jobs=1, **settings)
    assert [content(run)["table"] for run in runs] == [content(run)["table"] for run in own]


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [0, 3])
def test_a_run_that_kills_its_worker_is_a_row(tmp_path, allowed):
    """As the system does where memory ends: the others come to their end.

    So it is where dask gives up what was given to workers of which ``allowed`` and one more died, at work or not.
    """
    kinds = {"SGD": torch.optim.SGD, "Fatal": setups.Fatal}
    kept = {"distributed.deploy.lost-worker-timeout": "1 hour"}  # a local cluster lets go of those that restart then
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed} | kept),
        local_cluster(),
        joblib.parallel_config(backend="dask"),
        pytest.warns(SweepWarning, match="Fatal: its process died"),
    ):
        runs = eom.sweep(setups.plain, LRS[:2], 40, out=tmp_path / "sweep", every=5, threads=1, optimizers=kinds)
    assert ["finished" in run.manifest for run in runs if "Fatal" not in run.path.name] == [True, True]


@pytest.mark.slow
def test_runs_of_one_process_take_turns_and_are_as_they_are_here(tmp_path):
    """In a worker with threads they share torch's generators; and its client is not the default one."""
    settings = {"steps": 200, "every": 5, "order": None, "threads": 1}
    with (
        local_cluster(1, 4, set_as_default=False) as client,
        joblib.parallel_config(backend="dask", client=client, priority=1),
    ):
        runs = eom.sweep(setups.dropping, LRS, out=tmp_path / "sweep", **settings)
    own = eom.sweep(setups.dropping, LRS, out=tmp_path / "own", jobs=1, **settings)
    assert [content(run)["table"] for run in runs] == [content(run)["table"] for run in own]


@pytest.mark.slow
def test_a_sweep_may_be_called_by_a_task_of_the_cluster(tmp_path):
    """It makes room for its own runs, though there is one thread."""
    with local_cluster(1, 1) as client:
        assert client.submit(setups.swept_there, LRS, tmp_path / "sweep").result(timeout=60) == len(LRS)


@pytest.mark.slow
def test_a_cluster_without_workers_is_told_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 1.0)
    with local_cluster() as client:
        scaled = threading.Thread(target=scale_at_work, args=(tmp_path / "sweep", client.cluster))
        scaled.start()
        with joblib.parallel_config(backend="dask"), pytest.warns(SweepWarning, match="no worker for 1 s"):
            runs = eom.sweep(setups.plain, LRS, 4000, out=tmp_path / "sweep", every=5, order=None, threads=1)
        scaled.join()
    assert all("finished" in run.manifest for run in runs)


@pytest.mark.slow
def test_a_cluster_that_is_lost_is_told_and_the_sweep_goes_on_elsewhere(tmp_path):
    settings = {"out": tmp_path / "sweep", "every": 5, "order": None, "threads": 1}
    with local_cluster() as client:
        lost = threading.Thread(target=close_at_work, args=(tmp_path / "sweep", client.cluster))
        lost.start()
        with joblib.parallel_config(backend="dask"), pytest.warns(SweepWarning, match="lr-0.05: the cluster was clo"):
            eom.sweep(setups.plain, LRS, 4000, **settings)
        lost.join()
    runs = eom.sweep(setups.plain, LRS, 4000, jobs=1, **settings)
    assert all("finished" in run.manifest for run in runs)


def kill_one_at_work(folder: Path, workers: list[int]) -> None:
    """One of the two processes behind the runs that have records by now."""
    wait_for_two_at_work(folder)
    os.kill(workers[0], signal.SIGKILL)


def scale_at_work(folder: Path, cluster) -> None:
    """To no worker for some seconds."""
    wait_for_two_at_work(folder)
    cluster.scale(0)
    time.sleep(8)
    cluster.scale(1)


def close_at_work(folder: Path, cluster) -> None:
    wait_for_two_at_work(folder)
    cluster.close()


def wait_for_two_at_work(folder: Path) -> None:
    while sum(table.stat().st_size > 20_000 for table in folder.glob("*/table.csv")) < 2:
        time.sleep(0.02)
