"""A run that was interrupted goes on without a seam."""

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch.optim import SGD
from trainings import at, kinds, sources, steps, tracked
from trainings import train as one_step

import eom
from eom.errors import EomError, FolderUsedError, NotARunError, SettingError, TrackingWarning

COUNT = 23
SETTINGS: dict[str, dict[str, Any]] = {
    "full batch": {"order": 2, "horizon": 6, "horizons": 4, "sharpness": 2},
    "differences": {"product": "difference", "bars": False},
    "order 0": {"order": 0},
    "changing rate": {"horizon": 5, "horizons": 4},
    "mini-batches": {},
    "epochs": {"horizon": 6, "horizons": 4, "data": tanh_mlp()[1]},
    "momentum": {},
    "clipping": {"horizon": 6, "horizons": 4},
}


class Killed(Exception):
    """The end of a process, as far as the loop is concerned."""


def train(folder: Path, name: str, stop: int = COUNT, checkpoint: bytes | None = None, at_step: int = -1) -> bytes:
    """Train from a checkpoint up to step ``stop``; returns the checkpoint taken at ``at_step``, through torch.save."""
    model, (x, labels) = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.01, momentum=0.5 if name == "momentum" else 0.0)
    gamma = 0.9 if name == "changing rate" else 1.0
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma)
    start, saved, resume = 0, b"", None
    if checkpoint is not None:
        state = torch.load(io.BytesIO(checkpoint), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        start, resume = state["tracker"]["step"], state["tracker"]
    with eom.track(model, optimizer, cross_entropy, folder, every=4, resume=resume, **SETTINGS[name]) as tracker:
        for step in range(start, stop):
            part = slice(None)
            if name in ("mini-batches", "epochs"):
                part = torch.randperm(24, generator=torch.Generator().manual_seed(step))[:12]
            optimizer.zero_grad()
            tracker.loss((x[part], labels[part])).backward()
            if name == "clipping":
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1 if step > 13 else 1e3)
            optimizer.step()
            scheduler.step()
            if step + 1 == at_step:
                parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "tracker": tracker}
                buffer = io.BytesIO()
                torch.save({k: v.state_dict() for k, v in parts.items()}, buffer)
                saved = buffer.getvalue()
        if stop < COUNT:
            raise Killed
    return saved


def killed(folder: Path, name: str, at_step: int, stop: int, how: str) -> bytes:
    """A run that saved a checkpoint at ``at_step`` and ended at ``stop``, by an exception or by a kill."""
    copy = folder.with_name(folder.name + "-killed")
    saved: list[bytes] = []

    def run() -> None:
        original = eom.tracking.tracker.Tracker.__exit__

        def gone(self, *exception):
            shutil.copytree(folder, copy)  # what a kill leaves on the disk
            original(self, *exception)

        with pytest.MonkeyPatch.context() as patch:
            if how == "kill":
                patch.setattr(eom.tracking.tracker.Tracker, "__exit__", gone)
            buffer = io.BytesIO()
            patch.setattr(torch, "save", lambda state, file: saved.append(to_bytes(state, buffer)))
            with pytest.raises(Killed):
                train(folder, name, stop, at_step=at_step)

    run()
    if how == "kill":
        shutil.rmtree(folder)
        copy.rename(folder)
    return saved[0]


def to_bytes(state: Any, buffer: io.BytesIO, save: Callable = torch.save) -> bytes:
    save(state, buffer)
    return buffer.getvalue()


def assert_seamless(tmp_path: Path, name: str, offsets: list[tuple[int, str]]) -> None:
    """Whatever the offset of the checkpoint from open records, and of the end from the checkpoint."""
    train(tmp_path / "whole", name)
    whole = (tmp_path / "whole" / "table.csv").read_text()
    assert len(whole.splitlines()) > 100
    later = random.Random(0)
    for at_step, how in offsets:
        folder = tmp_path / f"{at_step}-{how}"
        stop = at_step + later.choice([0, 1, 3, 6])
        train(folder, name, checkpoint=killed(folder, name, at_step, stop, how))
        found = (folder / "table.csv").read_text()
        assert found == whole, f"checkpoint at {at_step}, end at {stop}"


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize(
    "name", [n if n == "mini-batches" else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS]
)
def test_the_table_of_a_resumed_run_is_that_of_an_uninterrupted_one_row_for_row(tmp_path, name):
    assert_seamless(tmp_path, name, [(9, "kill"), (11, "exception"), (14, "kill")])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
@pytest.mark.parametrize("how", ["exception", "kill"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_can_be_resumed_at_every_step(tmp_path, name, how):
    assert_seamless(tmp_path, name, [(at_step, how) for at_step in range(1, 17)])


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
def test_events_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path):
    train(tmp_path / "whole", "clipping")
    train(tmp_path / "run", "clipping", checkpoint=killed(tmp_path / "run", "clipping", 11, 15, "exception"))
    assert eom.open_run(tmp_path / "run").events().equals(eom.open_run(tmp_path / "whole").events())


def test_a_state_that_was_kept_in_memory_is_not_changed_by_the_steps_after_it(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=4, horizon=8, horizons=1) as tracker:
        steps(optimizer, tracker.loss, [batch] * 6)
        state = tracker.state_dict()
        before = repr(state)
        steps(optimizer, tracker.loss, [batch] * 10)
        assert repr(state) == before


def test_a_budget_goes_on_with_what_it_settled_on(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every="50%") as tracker:
        steps(optimizer, tracker.loss, [batch] * 20)
        state = tracker.state_dict()
    every = tracker.run.manifest["every"]
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every="50%", resume=state) as tracker:
        steps(optimizer, tracker.loss, [batch] * 20)
    assert tracker.run.manifest["every"] == every
    assert set(tracker.run.table().step) == {0, 10} | {s for s in range(16, 40) if s % every == 0}


def test_a_budget_that_was_not_settled_starts_anew(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every="50%") as tracker:
        steps(optimizer, tracker.loss, [batch] * 13)
        state = tracker.state_dict()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every="50%", resume=state) as tracker:
        steps(optimizer, tracker.loss, [batch] * 40)
    assert {0, 10, 13, 23} <= set(tracker.run.table().step)
    assert isinstance(tracker.run.manifest["every"], int)
    assert kinds(tracker.run) == {"budget"}


@pytest.mark.parametrize("step", [0, 7, 10, 12])
def test_resuming_at_a_step_drops_the_rows_from_there_on_and_keeps_the_rest(tmp_path, step):
    whole = tracked(tmp_path / "whole", count=20)
    tracked(tmp_path / "run", count=20)
    before = (tmp_path / "run" / "table.csv").read_text().splitlines()
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.05, weight_decay=0.01)
    steps(optimizer, lambda b: cross_entropy(model, b), [batch] * step)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, resume=step) as tracker:
        kept = (tmp_path / "run" / "table.csv").read_text().splitlines()
        assert kept == [before[0], *(line for line in before[1:] if int(line.split(",")[0]) < step)]
        steps(optimizer, tracker.loss, [batch] * (20 - step))
    keys = ["step", "group", "quantity", "source"]
    table, wanted = tracker.run.table(), whole.table()
    assert not table.duplicated(keys).any()
    assert set(map(tuple, table[keys].to_numpy())) == set(map(tuple, wanted[keys].to_numpy()))
    assert at(tracker.run, 15, "norm_squared") == at(whole, 15, "norm_squared")
    assert table[table.step == 15].time.iloc[0] == pytest.approx(0.75)
    assert tracker.run.manifest["resumed"][0]["step"] == step
    assert tracker.run.manifest["sha256"] == whole.manifest["sha256"]  # of the beginning


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path):
    (tmp_path / "notes").mkdir()
    model, _ = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    for folder in (tmp_path / "notes", tmp_path / "nowhere"):
        with pytest.raises(NotARunError, match="expected the folder of a run"):
            eom.track(model, optimizer, cross_entropy, folder, resume=5)
    assert list(tmp_path.iterdir()) == [tmp_path / "notes"]


def test_the_state_of_another_model_is_refused_and_the_run_left_as_it_is(tmp_path):
    run = tracked(tmp_path / "run")
    before = (tmp_path / "run" / "table.csv").read_bytes()
    other = torch.nn.Linear(4, 3)
    optimizer = SGD(other.parameters(), lr=0.1)
    with eom.track(other, optimizer, cross_entropy, tmp_path / "other") as tracker:
        state = tracker.state_dict()
    model, _ = tanh_mlp()
    with pytest.raises(SettingError, match="pass the state of this very run"):
        eom.track(model, SGD(model.parameters(), lr=0.1), cross_entropy, run.path, resume=state)
    assert (tmp_path / "run" / "table.csv").read_bytes() == before


def test_a_used_folder_is_not_written_to_unless_asked(tmp_path):
    run = tracked(tmp_path / "run")
    before = {p: p.read_bytes() for p in run.path.iterdir() if p.name != ".lock"}
    model, _ = tanh_mlp()
    with pytest.raises(FolderUsedError, match="resume=STEP"):
        eom.track(model, SGD(model.parameters(), lr=0.1), cross_entropy, run.path)
    assert {p: p.read_bytes() for p in run.path.iterdir() if p.name != ".lock"} == before


def test_a_batch_that_changes_at_the_seam_does_not_go_into_an_open_record(tmp_path):
    model, (x, labels) = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    settings: dict[str, Any] = {"every": 100, "horizon": 9, "horizons": 1}
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", **settings) as tracker:
        steps(optimizer, tracker.loss, [(x, labels)] * 3)
        state = tracker.state_dict()
    with (
        pytest.warns(TrackingWarning, match="after the resume is another one"),
        eom.track(model, optimizer, cross_entropy, tmp_path / "run", resume=state, **settings) as tracker,
    ):
        steps(optimizer, tracker.loss, [(x + 0.1, labels)] * 9)
    assert sources(tracker.run) == {"look-ahead", "order-0", "order-1"}


def test_a_bad_loss_is_refused_at_the_first_batch_after_a_resume_too(tmp_path):
    tracked(tmp_path / "run", count=8)
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.1)

    def body(step, tracker):
        steps(optimizer, tracker.loss, [batch])

    with pytest.raises(EomError, match="expected one real number"):
        one_step(tmp_path / "run", model, optimizer, body, count=1, loss_fn=lambda m, b: m(b[0]), resume=8)
