"""A sweep: the same runs as one after another, whatever happens to some of them."""

import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import setups
import torch
from small_sweeps import LRS, swept
from typer.testing import CliRunner

import eom
from eom.cli import app
from eom.errors import (
    SettingError,
    SweepWarning,
)
from eom.records import Run
from eom.sweeps import train
from eom.sweeps.caller import Caller
from eom.sweeps.door import in_words
from eom.sweeps.grid import Cell
from eom.sweeps.live import latest


def alone(folder: Path, lr: float, seed: int = 0) -> Run:
    """The loop that a user would write."""
    torch.manual_seed(seed)
    model, loss_fn, data = setups.plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with eom.track(model, optimizer, loss_fn, folder, every=3, sharpness=5) as tracker:
        for _ in range(12):
            optimizer.zero_grad()
            tracker.loss(data).backward()
            optimizer.step()
    return tracker.run


def content(run: Run) -> dict:
    """Table and manifest, without when and how it was made."""
    manifest = {k: v for k, v in run.manifest.items() if k not in ("created", "finished", "command")}
    return manifest | {"table": (run.path / "table.csv").read_bytes()}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_run_is_that_of_the_users_own_loop(tmp_path, one_thread, jobs):
    runs = swept(tmp_path / "sweep", jobs=jobs)
    assert [run.path.name for run in runs] == ["lr-0.4", "lr-0.1"]
    for run in runs:
        single = content(alone(tmp_path / run.path.name, run.manifest["settings"]["reference_lr"]))
        if jobs > 1:  # seeded there as well, but initial_seed is of the process
            assert content(run)["seed"] == single["seed"]
        assert content(run) == single


def test_the_callers_generators_and_threads_are_left_alone(tmp_path):
    assert eom.sweep  # imported by now: rich draws from Python's random as it is loaded
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()  # type: ignore[index]
    swept(tmp_path / "sweep")
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()  # type: ignore[index]
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


def test_a_common_time_gives_each_rate_its_own_number_of_steps(tmp_path):
    runs = swept(tmp_path / "sweep", lrs=[0.1, 0.3], steps=None, time=1.2)
    assert [run.manifest["steps"] for run in runs] == [4, 12]
    assert [run.table().time.max() for run in runs] == pytest.approx([0.9, 0.9])


def test_seeds_batch_sizes_and_optimizers(tmp_path):
    runs = swept(tmp_path / "sweep", lrs=[0.1], seeds=[0, 7], batch_sizes=[None, 25], optimizers=["SGD", "Adam"])
    assert [run.path.name for run in runs] == [
        *("lr-0.1", "lr-0.1-Adam", "lr-0.1-batch-25", "lr-0.1-Adam-batch-25"),
        *("lr-0.1-seed-7", "lr-0.1-Adam-seed-7", "lr-0.1-batch-25-seed-7", "lr-0.1-Adam-batch-25-seed-7"),
    ]
    starts = [run.manifest["sha256"]["parameters"] for run in runs]
    assert len(set(starts[:4])) == len(set(starts[4:])) == 1
    assert starts[0] != starts[4]
    assert [run.manifest["settings"]["optimizer"] for run in runs[:2]] == ["SGD", "Adam"]
    assert [run.manifest["data"]["samples"] for run in runs[:3:2]] == [60, 25]


def test_batches_are_passed_again_and_again(tmp_path):
    (run,) = swept(tmp_path / "sweep", setups.batches, [0.1])
    assert run.manifest["data"]["samples"] == 40
    assert run.manifest["steps"] == 12


def test_finished_runs_are_not_repeated_and_new_rates_are_added(tmp_path):
    first = swept(tmp_path / "sweep")
    marks = {run.path: (run.path / "table.csv").stat().st_ino for run in first}
    again = swept(tmp_path / "sweep", lrs=[0.2, *LRS])
    assert [run.path.name for run in again] == ["lr-0.4", "lr-0.2", "lr-0.1"]
    assert {run.path: (run.path / "table.csv").stat().st_ino for run in again if run.path in marks} == marks


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on(tmp_path):
    """The run that was cut off is done anew, the one that was over stays."""
    call = "eom.sweep(setups.plain, [0.4, 0.1], 3000, out='sweep', jobs=1, threads=1, every=3, order=None)"
    code = f"import eom, setups, torch\ntorch.set_default_dtype(torch.float64)\n{call}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    victim = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    first, second = (tmp_path / "sweep" / name / "table.csv" for name in ("lr-0.4", "lr-0.1"))
    while not (second.exists() and second.stat().st_size > 10000):
        time.sleep(0.01)
        assert victim.poll() is None
    victim.kill()
    victim.wait()
    inode = first.stat().st_ino
    assert "finished" not in eom.open_run(second.parent).manifest
    runs = swept(tmp_path / "sweep", steps=3000, order=None)
    whole = swept(tmp_path / "whole", steps=3000, order=None)
    assert first.stat().st_ino == inode
    assert [content(run)["table"] for run in runs] == [content(run)["table"] for run in whole]


def test_a_training_that_diverges_is_a_row_and_is_not_repeated(tmp_path):
    for _ in range(2):
        with pytest.warns(SweepWarning, match=r"1 of 2 runs failed. lr-40.0: .*the loss is inf at step 97: the train"):
            wild, calm = swept(tmp_path / "sweep", setups.quadratic, [0.1, 40.0], 300, order=None)
        assert "finished" in calm.manifest
        assert "finished" not in wild.manifest
        assert wild.events().message.str.contains("the training diverged").any()
        assert wild.table().step.max() > 50


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken").touch()
    kinds = {"SGD": torch.optim.SGD, "Failing": setups.Failing}
    with pytest.warns(SweepWarning, match="1 of 2 runs failed. lr-0.4-Failing: MemoryError: no memory left"):
        runs = swept(tmp_path / "sweep", optimizers=kinds, lrs=[0.4])
    assert ["finished" in run.manifest for run in runs] == [True, False]
    Path("broken").unlink()
    runs = swept(tmp_path / "sweep", optimizers=kinds, lrs=[0.4])
    assert all("finished" in run.manifest for run in runs)


@pytest.mark.slow
def test_the_processes_of_a_sweep_that_was_killed_leave_its_folder_alone(tmp_path):
    """Two runs at work and more waiting: after the kill none of them goes on, and the next sweep does all."""
    call = "eom.sweep(setups.plain, [0.4, 0.3, 0.2, 0.1], 30000, out='sweep', jobs=2, threads=1, every=3, order=None)"
    code = f"import eom, setups, torch\ntorch.set_default_dtype(torch.float64)\n{call}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    victim = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    while sum(table.stat().st_size > 20000 for table in tmp_path.glob("sweep/*/table.csv")) < 2:
        time.sleep(0.02)
        assert victim.poll() is None
    victim.kill()
    victim.wait()
    runs = swept(tmp_path / "sweep", lrs=[0.4, 0.3, 0.2, 0.1], steps=30000, order=None, jobs=2)
    assert ["finished" in run.manifest for run in runs] == [True] * 4
    assert {len(run.table()) for run in runs} == {len(runs[0].table())}


@pytest.mark.slow
def test_a_process_that_dies_takes_no_other_run_with_it(tmp_path):
    kinds = {"SGD": torch.optim.SGD, "Fatal": setups.Fatal}
    with pytest.warns(SweepWarning, match="2 of 4 runs failed.*-Fatal: its process died; too little memory"):
        runs = swept(tmp_path / "sweep", optimizers=kinds, jobs=2)
    assert ["finished" in run.manifest for run in runs] == [True, False, True, False]


def test_a_run_that_came_to_its_end_is_not_begun_again(tmp_path):
    """A cluster asks for it once more where its worker died with the answer, after others were told of it."""
    (done,) = swept(tmp_path / "sweep", lrs=LRS[:1])
    before, cell = content(done), Cell(LRS[0], 12)

    def gone():
        raise AssertionError("begun again")

    assert train.run(gone, cell, torch.optim.SGD, done.path, {}, {}, Caller()) == ""
    assert content(eom.open_run(done.path)) == before
    (done.path / "table.csv").unlink()
    assert "begun again" in train.run(gone, cell, torch.optim.SGD, done.path, {}, {}, Caller())


def test_functions_among_the_settings_are_known_again_in_another_process():
    assert in_words({"a": setups.parabola, "b": 1}) == "{'a': 'setups.parabola', 'b': '1'}"
    assert in_words(partial(setups.batch, 3)) == "functools.partial(<function batch>, 3)"
    assert in_words(torch.arange(2000)) == in_words(torch.arange(2000)) != in_words(torch.arange(2000).flip(0))


def test_the_loss_of_a_record_with_many_rows_is_seen_while_a_run_is_at_work(tmp_path):
    row = "70,1.5,layer,norm_squared,measured,0.25,\n"
    (tmp_path / "table.csv").write_text("header\n70,1.5,all,loss,measured,0.5,\n" + row * 3000 + "80,1.5,al")
    assert latest(tmp_path) == (70, 0.5)


@pytest.mark.slow
def test_a_loader_with_processes_of_its_own_is_read_in_a_process_of_the_sweep(tmp_path):
    found = swept(tmp_path / "sweep", setups.loader_with_workers, [0.1, 0.05], jobs=2)
    assert [run.manifest["steps"] for run in found] == [12, 12]


def test_a_shuffling_loader_gives_the_batches_that_a_users_own_loop_has(tmp_path, one_thread):
    """Looking at its first batch draws from the generators, which is taken back."""
    (run,) = swept(tmp_path / "sweep", setups.loader, [0.1])
    torch.manual_seed(0)
    model, loss_fn, data = setups.loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with eom.track(model, optimizer, loss_fn, tmp_path / "alone", every=3, sharpness=5) as tracker:
        for _ in range(4):
            for batch in data:
                optimizer.zero_grad()
                tracker.loss(batch).backward()
                optimizer.step()
    assert run.table().equals(tracker.run.table())


def test_the_command_sweeps_and_compares(tmp_path):
    out = tmp_path / "sweep"
    given = ["--lr", ".4,.1", "--steps", "12", "--every", "3", "--jobs", "1", "--threads", "1", "--out", str(out)]
    done = CliRunner().invoke(app, ["sweep", "setups:plain", *given])
    assert done.exit_code == 0, done.output
    assert "2 runs of one model from the same start" in done.output
    assert "Runs" in (out / "comparison.html").read_text("utf-8")
    one = CliRunner().invoke(app, ["sweep", "setups:plain", *given, "--lr", ".4"])
    assert "1 run in" in one.output
    steep = ["--lr", "1000,2000", "--steps", "200", "--jobs", "1", "--out", str(tmp_path / "steep")]
    none = CliRunner().invoke(app, ["sweep", "setups:quadratic", *steep])
    assert none.exit_code == 1
    assert "2 of 2 runs failed" in none.output
    assert "no run of" in none.output
    for lr in ("x", "0.1,,0.2"):
        wrong = CliRunner().invoke(app, ["sweep", "setups:plain", "--lr", lr, "--steps", "5"])
        assert isinstance(wrong.exception, SettingError)
        assert "expected values with commas between them" in str(wrong.exception)
