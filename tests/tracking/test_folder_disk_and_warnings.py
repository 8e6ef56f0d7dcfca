"""A folder or disk that fails in mid-run costs records only; every kind of event warns once."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from problems import cross_entropy, tanh_mlp
from torch.optim import SGD
from trainings import (
    COUNT,
    LR,
    assert_same,
    compare,
    messages,
    state_of,
    steps,
    tracked,
)

import eom
from eom.errors import TrackingWarning


def test_a_folder_that_is_deleted_in_mid_run_is_said(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    optimizer_of = eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=4)

    def run() -> None:
        with optimizer_of as tracker:
            for step in range(COUNT):
                if step == 10:
                    shutil.rmtree(tmp_path / "run")
                steps(optimizer, tracker.loss, [batch])

    with pytest.warns(TrackingWarning, match="is gone: what is recorded from here on is lost"):
        run()
    other, _ = tanh_mlp()
    by = SGD(other.parameters(), lr=LR)
    steps(by, lambda b: cross_entropy(other, b), [batch] * COUNT)
    assert_same(state_of(model, optimizer), state_of(other, by))


FULL = """
import resource, sys, warnings
sys.path[:0] = sys.argv[2:]
import torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
from problems import cross_entropy, tanh_mlp
from torch.optim import SGD
from trainings import steps
import eom

model, batch = tanh_mlp()
optimizer = SGD(model.parameters(), lr=0.05, weight_decay=0.01)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with eom.track(model, optimizer, cross_entropy, sys.argv[1], every=5) as tracker:
        for step in range(60):
            if step == 12:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
            if step == 30 and "lifted" in sys.argv[1]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            steps(optimizer, tracker.loss, [batch])
print(sum(p.double().sum().item() for p in model.parameters()).hex())
print(*(w.message for w in caught), sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lifted", "full"])
def test_a_full_disk_stops_no_training_and_loses_nothing_that_finds_room_again(tmp_path, name):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / name), str(here), str(here.parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    end, *said = done.stdout.splitlines()
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    steps(optimizer, lambda b: cross_entropy(model, b), [batch] * 60)
    assert end == float(sum(p.double().sum().item() for p in model.parameters())).hex()
    assert sum("Make room on the disk" in line for line in said) >= 1
    run, whole = eom.open_run(tmp_path / name), tracked(tmp_path / "whole", count=60)
    if name == "lifted":
        assert run.table().equals(whole.table())
        assert "not_written" in set(run.events().kind)
    else:
        table = run.table()
        assert 0 < len(table) < len(whole.table())
        assert table.equals(
            whole.table().iloc[: len(table)].assign(**{c: table[c] for c in ("group", "quantity", "source")})
        )


def test_every_kind_of_event_warns_once_and_is_logged_a_hundred_times_at_most(tmp_path):
    def body(step, model, optimizer, loss, batch):
        for _ in range(3):
            optimizer.zero_grad()
            (2 * loss(batch)).backward()
            optimizer.step()

    run, said = compare(tmp_path, body, every=1)
    assert len(said) == 1
    assert len(messages(run, "update_mismatch")) == 100
    assert len(run.table().query("quantity == 'update_mismatch'")) == 3 * COUNT


def test_warnings_that_the_user_makes_errors_of_are_printed_instead(tmp_path, capsys):
    def body(step, model, optimizer, loss, batch):
        optimizer.zero_grad()
        (2 * loss(batch)).backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()

    run, said = compare(tmp_path, body)
    assert not said
    assert "eom, step 0: the step differs by 0.99 of its size" in capsys.readouterr().err
    assert "failed" not in set(run.events().kind)


def test_a_user_who_goes_on_training_after_an_error_in_the_first_batch_is_followed(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:
        with pytest.raises(RuntimeError):
            tracker.loss((batch[0][:, :2], batch[1]))
        steps(optimizer, tracker.loss, [batch] * 20)
    assert tracker.run.table().equals(tracked(tmp_path / "clean").table())
