"""What a sweep is not given, or not given twice: refused before anything is written, or a row that says so."""

import json
import sys
import threading
import types
from pathlib import Path

import pytest
import setups
import torch
from filelock import FileLock
from small_sweeps import swept

from eom.errors import (
    DataError,
    FolderInUseError,
    FolderNotWritableError,
    FolderUsedError,
    LossNotFiniteError,
    NewerRunError,
    RecordsNotWritten,
    SettingError,
    SweepWarning,
)
from eom.records import RunWriter


def test_data_that_cannot_be_cut_is_refused(tmp_path):
    with pytest.raises(DataError, match="batch sizes are swept, and the data is not one batch"):
        swept(tmp_path / "sweep", setups.batches, [0.1], batch_sizes=[5])
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("setup", "what"),
    [
        (setups.keeping, "generator state"),
        (setups.drawing, "parameters and loss"),
        (setups.heavier, "loss"),
        (setups.counting, "constants"),
    ],
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
        ({"threads": -1}, "threads holds -1, expected whole numbers, 1 to 4096"),
        ({"jobs": "2"}, "jobs holds '2', expected whole numbers, 1 to 4096"),
        ({"out": None}, "out is None, expected the name of a folder"),
        ({"out": ""}, "out is '', expected"),
        ({"optimizers": {"x": lambda p: None}}, r"optimizer x cannot be made \(TypeError: .*lr"),
        (
            {"optimizers": {"x": lambda p, lr: None}},
            r"optimizer x is a NoneType, expected a function \(parameters, lr=\)",
        ),
        ({"lrs": [10**400]}, "lrs holds 1000*, expected positive finite numbers"),
        ({"steps": 10**400}, "steps holds 1000*, expected whole numbers, 1 to 1000000000000"),
        ({"optimizers": ["LBFGS"]}, "optimizer LBFGS is LBFGS, whose step takes a closure"),
        (
            {"optimizers": {"x": lambda p, lr: torch.optim.SGD(p, lr=0.03)}},
            "optimizer x has 0.03 for its largest learning rate where 0.4 was asked for",
        ),
        ({"setup": lambda: 1 / 0}, "setup, or the loss that it returns, raised ZeroDivisionError"),
        (
            {"setup": lambda: (setups.network(), lambda model, batch: model(batch), setups.batch()[0].new_ones(2, 9))},
            "setup, or the loss that it returns, raised RuntimeError: mat1 and mat2",
        ),
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


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"asked": 1}', '{"asked": {', '{"asked": {}, "starts": null, "runs": []}']
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(FolderUsedError, match="cannot be read as that of a sweep"):
        swept(tmp_path)


def test_a_run_of_a_newer_version_is_not_done_again(tmp_path):
    """Nor one that cannot be read for another reason than damage."""
    run = swept(tmp_path / "sweep", lrs=[0.4])[0]
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(NewerRunError):
        swept(tmp_path / "sweep", lrs=[0.4])
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    (run.path / "table.csv").unlink()
    (run.path / "table.csv").mkdir()
    with pytest.raises(FolderUsedError, match="cannot be read"):
        swept(tmp_path / "sweep", lrs=[0.4])


def observable(factor: float):
    return lambda named: factor * named["0.weight"].sum()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"observables": {"o": observable(1.0)}}, {"observables": {"o": observable(100.0)}}),
        ({"optimizers": {"o": lambda p, lr: torch.optim.SGD(p, lr)}}, {"optimizers": {"o": setups.decayed}}),
    ],
)
def test_a_sweep_is_not_continued_with_what_differs_behind_one_name(tmp_path, before, now):
    swept(tmp_path / "sweep", **before)
    with pytest.raises(FolderUsedError, match=r"observables|weight_decay \(optimizer o at 0\.4"):
        swept(tmp_path / "sweep", **now)


def test_data_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(LossNotFiniteError, match="the loss of the first batch is nan at the start"):
        swept(
            tmp_path / "sweep",
            lambda: (setups.network(), setups.cross_entropy, (setups.batch()[0] * torch.nan, setups.batch()[1])),
        )
    assert not (tmp_path / "sweep").exists()


def test_batches_are_cut_from_a_named_tuple(tmp_path):
    (run,) = swept(tmp_path / "sweep", setups.named, [0.1], batch_sizes=[20])
    assert run.manifest["data"]["samples"] == 20


@pytest.mark.parametrize("name", ["manifest.json", "table.csv"])
def test_a_damaged_run_is_done_again(tmp_path, name):
    whole = swept(tmp_path / "sweep")
    wanted = whole[0].table()
    (whole[0].path / name).write_text("{")
    assert swept(tmp_path / "sweep")[0].table().equals(wanted)


def test_a_stream_that_is_empty_in_its_second_pass_is_a_row(tmp_path):
    with pytest.warns(SweepWarning, match="lr-0.1: DataError: a pass over the data, a DataLoader, gave no batch"):
        swept(tmp_path / "sweep", setups.passing_once, [0.1])


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
    with pytest.raises(FolderUsedError, match=r"other loss \(start with seed 0\) and parameters \(start with seed 0\)"):
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
        ({"steps": 0}, "steps holds 0, expected whole numbers, 1 to 1000000000000"),
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
