"""A sweep: the same runs as one after another, whatever happens to some of them."""

import os
import random
import subprocess
import sys
import threading
import time
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import setups
import torch
from filelock import FileLock
from typer.testing import CliRunner

import eom
from eom.cli import app
from eom.errors import (
    DataError,
    FolderInUseError,
    FolderNotWritableError,
    FolderUsedError,
    RecordsNotWritten,
    SettingError,
    SweepWarning,
)
from eom.records import Run, RunWriter
from eom.sweeps.door import in_words
from eom.sweeps.live import latest

LRS = [0.1, 0.4]


def swept(out: Path, setup=setups.plain, lrs=LRS, steps: int | None = 12, **others: Any) -> list[Run]:
    settings: dict[str, Any] = {"jobs": 1, "threads": 1, "every": 3} | others
    return eom.sweep(setup, lrs, steps, out=out, **settings)


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


def test_data_that_cannot_be_cut_is_refused(tmp_path):
    with pytest.raises(DataError, match="batch sizes are swept, and the data is not one batch"):
        swept(tmp_path / "sweep", setups.batches, [0.1], batch_sizes=[5])
    assert not (tmp_path / "sweep").exists()


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
def test_a_process_that_dies_takes_no_other_run_with_it(tmp_path):
    kinds = {"SGD": torch.optim.SGD, "Fatal": setups.Fatal}
    with pytest.warns(SweepWarning, match="2 of 4 runs failed.*-Fatal: its process died; too little memory"):
        runs = swept(tmp_path / "sweep", optimizers=kinds, jobs=2)
    assert ["finished" in run.manifest for run in runs] == [True, False, True, False]


@pytest.mark.parametrize(
    ("setup", "what"),
    [(setups.keeping, "generator state"), (setups.drawing, "parameters"), (setups.counting, "buffers")],
)
def test_a_setup_that_is_not_the_same_in_every_run_is_found_by_its_hash(tmp_path, setup, what):
    setups.KEPT.clear()
    with pytest.warns(SweepWarning, match=f"setup gave other {what} than at first: it is not deterministic, or keeps"):
        swept(tmp_path / "sweep", setup)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evry": 5}, "evry: no setting of a sweep's runs, expected .*every"),
        ({"every": 0}, "every"),
        ({"order": 7}, "order"),
        ({"lrs": [1e-10], "steps": None, "time": 1e308}, "takes .* steps at learning rate 1e-10"),
        ({"seeds": [2**32]}, "seeds holds 4294967296, expected whole numbers, 0 to 4294967295"),
        ({"optimizers": "SGD"}, "optimizers is 'SGD', expected a list"),
        ({"optimizers": {"../x": torch.optim.SGD}}, "expected names of letters and digits"),
        ({"batch_sizes": [61]}, "batch_sizes holds 61, more than the 60 samples"),
        ({"threads": -1}, "threads holds -1, expected whole numbers, 1 or more"),
        ({"jobs": "2"}, "jobs holds '2', expected whole numbers, 1 or more"),
        ({"out": None}, "out is a NoneType"),
        ({"setup": lambda x: x}, "setup needs arguments"),
        ({"setup": lambda: (setups.network(), setups.cross_entropy, iter([setups.batch()]))}, "can be passed once"),
        ({"setup": lambda: (setups.network(), setups.cross_entropy, [])}, "the data, a list, is empty"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(SettingError, match=message):
        swept(**({"out": tmp_path / "sweep"} | changes))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_of_this_sweep_is_left_as_it_is(tmp_path):
    (tmp_path / "sweep" / "lr-0.1").mkdir(parents=True)
    (tmp_path / "sweep" / "lr-0.1" / "notes.txt").write_text("mine")
    with pytest.raises(FolderUsedError, match=r"holds lr-0.1, which this sweep has not made"):
        swept(tmp_path / "sweep")
    swept(tmp_path / "sweep", lrs=[0.4])
    with pytest.raises(FolderUsedError, match=r"holds lr-0.1, which this sweep has not made"):
        swept(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "lr-0.1" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "null", '{"asked": 1}', '{"asked": {'])
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(FolderUsedError, match="cannot be read as that of a sweep"):
        swept(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "table.csv"])
def test_a_damaged_run_is_done_again(tmp_path, name):
    whole = swept(tmp_path / "sweep")
    wanted = whole[0].table()
    (whole[0].path / name).write_text("{")
    assert swept(tmp_path / "sweep")[0].table().equals(wanted)


def test_functions_among_the_settings_are_known_again_in_another_process():
    assert in_words({"a": setups.parabola, "b": 1}) == "{'a': 'setups.parabola', 'b': '1'}"
    assert in_words(partial(setups.batch, 3)) == "functools.partial(<function batch>, 3)"


def test_the_loss_of_a_record_with_many_rows_is_seen_while_a_run_is_at_work(tmp_path):
    row = "70,1.5,layer,norm_squared,measured,0.25,\n"
    (tmp_path / "table.csv").write_text("header\n70,1.5,all,loss,measured,0.5,\n" + row * 3000 + "80,1.5,al")
    assert latest(tmp_path) == (70, 0.5)


def test_a_loader_with_processes_of_its_own_is_read_in_a_process_of_the_sweep(tmp_path):
    found = swept(tmp_path / "sweep", setups.loader_with_workers, [0.1, 0.05], jobs=2)
    assert [run.manifest["steps"] for run in found] == [12, 12]


def test_a_stream_that_is_empty_in_its_second_pass_is_a_row(tmp_path):
    with pytest.warns(SweepWarning, match="lr-0.1: DataError: a pass over the data, a DataLoader, gave no batch"):
        swept(tmp_path / "sweep", setups.passing_once, [0.1])


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


def test_a_sweep_is_not_continued_with_another_loss(tmp_path):
    swept(tmp_path / "sweep", setups.plain)
    with pytest.raises(FolderUsedError, match=r"other loss_fn \(before: setups.cross_entropy, now: setups.doubled\)"):
        swept(tmp_path / "sweep", setups.other_loss)


def test_two_sweeps_in_one_folder(tmp_path):
    swept(tmp_path / "sweep")
    with FileLock(tmp_path / "sweep" / ".lock"), pytest.raises(FolderInUseError, match="in use by another sweep"):
        swept(tmp_path / "sweep")
    other = r"other order \(before: None, now: 0\) and steps \(before: 12, now: 13\), whose runs do not belong"
    with pytest.raises(FolderUsedError, match=other):
        swept(tmp_path / "sweep", steps=13, order=0)
    with pytest.raises(FolderUsedError, match="other initial parameters"):
        swept(tmp_path / "sweep", setups.drawing)


@pytest.mark.slow
def test_a_setup_that_another_process_cannot_have_is_refused_before_anything_is_written(tmp_path):
    here = types.ModuleType("only_here")
    exec(Path(setups.__file__).read_text(), vars(here))
    sys.modules["only_here"] = here
    here.plain.__module__ = "only_here"
    lock = threading.Lock()

    def locked():
        with lock:
            return setups.plain()

    try:
        for setup in (here.plain, locked):
            with pytest.raises(SettingError, match="setup or an optimizer cannot be sent to another process"):
                swept(tmp_path / "sweep", setup, jobs=2)
    finally:
        del sys.modules["only_here"]
    assert not (tmp_path / "sweep").exists()


def test_a_disk_that_is_full_fails_its_runs_and_stops_nothing(tmp_path, monkeypatch):
    """From the second run on the table takes no row; with space again, that run is done anew."""
    folder = tmp_path / "sweep"
    swept(folder, lrs=[0.4])
    append = RunWriter.append
    monkeypatch.setattr(RunWriter, "append", full)
    with pytest.warns(SweepWarning, match="lr-0.1: not all of it could be written"):
        first, second = swept(folder, lrs=[0.4, 0.1])
    monkeypatch.setattr(RunWriter, "append", append)
    assert len(first.table()) > 0
    assert second.table().empty
    assert "not_written" in set(second.events().kind)
    assert all(len(run.table()) for run in swept(folder, lrs=[0.4, 0.1]))


def full(writer: RunWriter, rows: object) -> None:
    raise RecordsNotWritten("no space left on device", 1)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderNotWritableError, match="no sweep can be written to"):
        swept(tmp_path / "file" / "sweep")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"lrs": []}, "lrs is empty"),
        ({"lrs": 0.1}, r"lrs is 0.1, expected a list"),
        ({"lrs": [0.1, 0.0]}, "lrs holds 0.0, expected positive finite numbers"),
        ({"lrs": [0.1, -1]}, "lrs holds -1, expected positive"),
        ({"lrs": [float("nan")]}, "lrs holds nan, expected positive"),
        ({"lrs": ["0.1"]}, "lrs holds '0.1', expected positive"),
        ({"lrs": [0.1, 0.2, 0.1]}, "lrs holds 0.1 twice"),
        ({"steps": 0}, "steps holds 0, expected whole numbers, 1 or more"),
        ({"steps": None}, "steps is None and time None, expected one of them"),
        ({"time": 2.0}, "steps is 12 and time 2.0, expected one of them"),
        ({"seeds": [1, 1]}, "seeds holds 1 twice"),
        ({"seeds": [0.5]}, "seeds holds 0.5, expected whole numbers"),
        ({"batch_sizes": [0]}, "batch_sizes holds 0, expected whole numbers, 1 or more"),
        ({"optimizers": ["Sgd"]}, "there is no optimizer 'Sgd' in torch.optim"),
        ({"setup": 3}, "setup is a int, expected a function"),
        ({"setup": setups.batch}, "setup returned a tuple"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, options, complaint):
    with pytest.raises(SettingError, match=complaint):
        swept(tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


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
