"""One tracker writes into one folder, in one process, and its run is readable whatever ends it."""

import threading

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import nn
from torch.optim import SGD
from trainings import LR, assert_same, kinds, messages, sources, state_of, steps, tracked, train

import eom
from eom.errors import FolderInUseError, FolderNotWritableError, FolderUsedError, SettingError


def make():
    model, batch = tanh_mlp()
    return model, batch, SGD(model.parameters(), lr=LR, weight_decay=0.01)


def test_a_second_tracker_on_an_open_folder_is_refused(tmp_path):
    model, batch, optimizer = make()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker:
        steps(optimizer, tracker.loss, [batch] * 3)
        other, _, by = make()
        with pytest.raises(FolderInUseError, match="in use by another writer"):
            eom.track(other, by, cross_entropy, tmp_path / "run")
        with pytest.raises(FolderInUseError, match="in use by another writer"):
            eom.track(other, by, cross_entropy, tmp_path / "run", resume=2)
        steps(optimizer, tracker.loss, [batch] * 9)
    with pytest.raises(FolderUsedError, match="already holds"):
        eom.track(other, by, cross_entropy, tmp_path / "run")
    keys = ["step", "quantity", "source", "group", "value"]
    assert tracker.run.table()[keys].equals(tracked(tmp_path / "other", every=10, count=12).table()[keys])


def test_a_folder_is_free_again_after_a_tracker_that_was_refused(tmp_path):
    model, batch, optimizer = make()
    for _ in range(2):
        with pytest.raises(SettingError):
            eom.track(model, optimizer, cross_entropy, tmp_path / "run", order=7)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker:
        steps(optimizer, tracker.loss, [batch])


@pytest.mark.parametrize("how", ["file", "below a file", "unwritable"])
def test_a_path_where_no_run_can_be_is_refused_before_the_first_step(tmp_path, how):
    (tmp_path / "file").write_text("notes")
    path, error = {
        "file": (tmp_path / "file", FolderUsedError),
        "below a file": (tmp_path / "file" / "run", FolderNotWritableError),
        "unwritable": ("/proc/run", FolderNotWritableError),
    }[how]
    model, _, optimizer = make()
    with pytest.raises(error, match="choose another"):
        eom.track(model, optimizer, cross_entropy, path)
    assert (tmp_path / "file").read_text() == "notes"


def test_a_disabled_tracker_does_and_writes_nothing(tmp_path):
    model, batch, optimizer = make()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", disabled=True) as tracker:
        tracker.observe(batch)
        steps(optimizer, tracker.loss, [batch] * 3)
        assert tracker.state_dict() == {}
    assert not list(tmp_path.iterdir())
    assert not optimizer._optimizer_step_post_hooks
    other, _, by = make()
    steps(by, lambda b: cross_entropy(other, b), [batch] * 3)
    assert_same(state_of(model, optimizer), state_of(other, by))


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_writes(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: rank)
    model, batch, optimizer = make()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker:
        steps(optimizer, tracker.loss, [batch] * 12)
    assert (tmp_path / "run").exists() is (rank == 0)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, torch.OutOfMemoryError])
def test_an_exception_of_the_users_own_closes_marks_and_leaves_the_run_readable(tmp_path, error):
    model, batch, optimizer = make()
    raised = error("the user's own")

    def body(step, tracker):
        if step == 12:
            raise raised
        steps(optimizer, tracker.loss, [batch])

    with pytest.raises(error) as caught:
        train(tmp_path / "run", model, optimizer, body, count=20)
    assert caught.value is raised
    run = eom.open_run(tmp_path / "run")
    assert messages(run, "interrupted") == [f"the training ended with {error.__name__} at step 12: {raised}"]
    assert run.manifest["steps"] == 12
    assert "finished" not in run.manifest
    assert sources(run, step=10) == {"look-ahead", "order-0", "order-1"}
    assert not optimizer._optimizer_step_pre_hooks
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, resume=12):
        pass  # the folder is free


@pytest.mark.filterwarnings("ignore::eom.errors.TrackingWarning")
def test_an_error_in_the_users_own_loss_function_is_theirs(tmp_path):
    model, batch, optimizer = make()
    calls = 0

    def loss_fn(model, batch):
        nonlocal calls
        calls += 1
        if model.training and calls > 60:
            raise ZeroDivisionError("mine")
        return cross_entropy(model, batch)

    def body(step, tracker):
        steps(optimizer, tracker.loss, [batch])

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(tmp_path / "run", model, optimizer, body, count=100, loss_fn=loss_fn)
    assert "interrupted" in kinds(eom.open_run(tmp_path / "run"))


def test_after_its_end_a_tracker_is_the_plain_loss_and_cannot_be_entered_again(tmp_path):
    model, batch, optimizer = make()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker:
        steps(optimizer, tracker.loss, [batch] * 12)
    table = tracker.run.table()
    steps(optimizer, tracker.loss, [batch] * 12)
    tracker.observe(batch)
    assert tracker.run.table().equals(table)
    with pytest.raises(SettingError, match=r"call eom\.track again"), tracker:
        pass


def test_a_tracker_that_was_not_entered_says_so(tmp_path):
    model, batch, optimizer = make()
    tracker = eom.track(model, optimizer, cross_entropy, tmp_path / "run")
    with pytest.raises(SettingError, match=r"with eom\.track"):
        tracker.loss(batch)


def test_a_tracker_without_a_step_leaves_an_empty_run(tmp_path):
    model, _, optimizer = make()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker:
        pass
    assert len(tracker.run.table()) == 0
    assert tracker.run.manifest["steps"] == 0


def test_a_run_is_readable_while_it_is_written(tmp_path):
    model, batch, optimizer = make()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=2) as tracker:
        steps(optimizer, tracker.loss, [batch] * 5)
        assert set(eom.open_run(tmp_path / "run").table().step) == {0, 2, 4}


def test_names_with_commas_quotes_and_line_feeds_come_back_as_they_are(tmp_path):
    name = 'a,"b"\n<b>c'
    model = nn.Module()
    model.register_module(name, nn.Linear(2, 1))
    optimizer = SGD(model.parameters(), lr=0.1)

    def loss_fn(model, batch):
        return model.get_submodule(name)(batch).square().mean()

    observables = {'own, "number"': lambda named: named[f"{name}.weight"].sum()}
    with eom.track(model, optimizer, loss_fn, tmp_path / "run", every=2, observables=observables) as tracker:
        steps(optimizer, tracker.loss, [torch.ones(4, 2)] * 12)
    table = tracker.run.table()
    assert f"{name}.weight" in set(table.group)
    assert 'own, "number"_rate' in set(table.quantity)


def test_two_trackers_on_two_models_in_two_threads_do_not_meet(tmp_path):
    """Each follows its own optimizer; torch's generator states belong to the process, so no dropout here."""
    failed = []

    def follow(name: str, made: tuple) -> None:
        try:
            tracked(tmp_path / name, count=12, make=lambda: made)
        except Exception as failure:
            failed.append(failure)

    threads = [threading.Thread(target=follow, args=(name, tanh_mlp())) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert eom.open_run(tmp_path / "a").table().equals(eom.open_run(tmp_path / "b").table())
