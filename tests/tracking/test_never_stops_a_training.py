"""After the first step whatever goes wrong is a warning and an event; the training ends with the bits it would have."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import count as counting
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from trainings import LR, assert_same, at, messages, sources, state_of, steps, tracked

import eom
from eom.errors import TrackingWarning

Body = Callable[[int, nn.Module, Optimizer, Callable[[Any], Tensor], Any], None]
COUNT = 40


def usual(step: int, model: nn.Module, optimizer: Optimizer, loss: Callable[[Any], Tensor], batch: Any) -> None:
    steps(optimizer, loss, [batch])


def compare(
    tmp_path: Path, body: Body, loss_fn=cross_entropy, make=tanh_mlp, **settings: Any
) -> tuple[eom.Run, list[str]]:
    """The run, and the warnings, of a training that ends with the same bits when it is not tracked."""
    states, said = [], []
    for follow in (False, True):
        torch.manual_seed(3)
        model, batch = make()
        optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
        chosen = {"every": 4, "disabled": not follow} | (settings if follow else {})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with eom.track(model, optimizer, loss_fn, tmp_path / "run", **chosen) as tracker:
                for step in range(COUNT):
                    body(step, model, optimizer, tracker.loss, batch)
        said = [str(w.message) for w in caught if issubclass(w.category, TrackingWarning)]
        states.append(state_of(model, optimizer))
    assert_same(*states)
    return eom.open_run(tmp_path / "run"), said


def assert_said(run: eom.Run, said: list[str], kind: str, message: str) -> None:
    """One warning of this kind, and an event."""
    assert any(message in m for m in messages(run, kind)), run.events().to_string()
    assert sum(message in m for m in said) == 1, said
    assert len(said) == len(set(said))


def test_a_loss_that_becomes_nan_ends_predictions_and_nothing_else(tmp_path):
    def body(step, model, optimizer, loss, batch):
        x, labels = batch
        steps(optimizer, loss, [(x * float("nan"), labels) if step == 14 else batch])

    run, said = compare(tmp_path, body, horizon=8, horizons=1)
    assert_said(run, said, "loss_not_finite", "the loss was not finite at step 14; predictions")
    assert {"measured", "order-1"} <= sources(run, step=4)
    assert sources(run, step=12) == {"look-ahead", "order-0", "order-1"}
    table = run.table()
    rates = table[
        table.quantity.isin(["norm_squared_rate", "norm_rate", "norm_squared_displacement", "position_error"])
    ]
    assert not rates.value.isna().any()
    assert set(table[table.quantity == "norm"].step) == set(range(0, COUNT, 4))
    assert table[(table.quantity == "norm") & (table.step >= 16)].value.isna().all()
    assert "horizon_withheld" in set(run.events().kind)
    assert "flow_given_up" not in set(run.events().kind)


def test_a_loss_that_becomes_infinite_for_one_step_ends_predictions(tmp_path):
    def body(step, model, optimizer, loss, batch):
        optimizer.zero_grad()
        value = loss((batch[0] * 1e308, batch[1]) if step == 8 else batch)
        if step != 8:
            value.backward()
        optimizer.step()

    run, said = compare(tmp_path, body)
    assert_said(run, said, "loss_not_finite", "the loss was not finite at step 8")


def replaced(step, model, optimizer, loss, batch):
    if step == 10:
        model.head = nn.Linear(5, 3)
        optimizer.param_groups[0]["params"] = list(model.parameters())
    steps(optimizer, loss, [batch])


def added(step, model, optimizer, loss, batch):
    if step == 10:
        model.extra = nn.Parameter(torch.ones(2))
        optimizer.add_param_group({"params": [model.extra]})
    steps(optimizer, loss, [batch])


def froze(step, model, optimizer, loss, batch):
    if step == 10:
        model.first.requires_grad_(False)
        model.first.zero_grad()
    steps(optimizer, loss, [batch])


def doubled(step, model, optimizer, loss, batch):
    x, labels = batch
    if step == 10:
        model.double()
    steps(optimizer, loss, [(x.to(model.head.weight.dtype), labels)])


def float_mlp():
    model, (x, labels) = tanh_mlp()
    return model.float(), (x.float(), labels)


@pytest.mark.parametrize(
    ("body", "make", "message"),
    [
        (replaced, tanh_mlp, "parameters were added, replaced, frozen or unfrozen"),
        (added, tanh_mlp, "parameters were added, replaced, frozen or unfrozen"),
        (froze, tanh_mlp, "parameters were added, replaced, frozen or unfrozen"),
        (doubled, float_mlp, "moved to another dtype or device"),
    ],
    ids=["replaced", "added", "frozen", "moved"],
)
def test_parameters_that_change_in_mid_run_end_the_records(tmp_path, body, make, message):
    run, said = compare(tmp_path, body, make=make)
    assert_said(run, said, "parameters_changed", message)
    table = run.table()
    assert table.step.max() == 8
    assert "order-1" in sources(run, step=0)
    assert not sources(run, step=8)  # the six steps after it were not of one training
    assert run.manifest["steps"] == COUNT


def test_a_parameter_group_that_joins_in_mid_run_is_said_and_read(tmp_path):
    def train(disabled: bool):
        model, batch = tanh_mlp()
        optimizer = SGD(model.get_submodule("head").parameters(), lr=LR)
        with (
            warnings.catch_warnings(record=True) as caught,
            eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=4, disabled=disabled) as tracker,
        ):
            warnings.simplefilter("always")
            for step in range(COUNT):
                if step == 10:
                    optimizer.add_param_group({"params": list(model.get_submodule("first").parameters()), "lr": 0.02})
                steps(optimizer, tracker.loss, [batch])
        return state_of(model, optimizer), [str(w.message) for w in caught]

    (bare, _), (state, said) = train(True), train(False)
    assert_same(bare, state)
    run = eom.open_run(tmp_path / "run")
    assert_said(run, said, "optimizer_changed", "the optimizer holds other parameters than before")
    assert at(run, 4, "norm_squared_rate", "order-0", "first.weight") == 0.0
    assert at(run, 12, "norm_squared_rate", "order-0", "first.weight") != 0.0
    assert at(run, 12, "update_mismatch") < 1e-13


def test_a_parameter_group_of_another_model_ends_predictions(tmp_path):
    def body(step, model, optimizer, loss, batch):
        if step == 10:
            optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
        steps(optimizer, loss, [batch])

    run, said = compare(tmp_path, body)
    assert_said(run, said, "optimizer_changed", "not all of this model")
    assert "order-1" in sources(run, step=4)
    assert sources(run, step=16) == {"measured"}


def test_a_step_without_a_loss_from_the_tracker_is_measured_and_not_predicted(tmp_path):
    def body(step, model, optimizer, loss, batch):
        steps(optimizer, (lambda b: cross_entropy(model, b)) if 10 <= step < 20 else loss, [batch])

    run, said = compare(tmp_path, body)
    assert_said(run, said, "withheld", "tracker.loss was not called before this step")
    assert {"order-1"} <= sources(run, step=4) & sources(run, step=20)
    assert sources(run, step=12) == {"measured"}
    assert not (run.table().query("step == 12").quantity == "loss").any()


def test_a_tracker_that_is_called_for_the_first_time_in_mid_run_tests_the_loss_then(tmp_path):
    def body(step, model, optimizer, loss, batch):
        steps(optimizer, loss if step > 9 else (lambda b: cross_entropy(model, b)), [batch])

    run, _ = compare(tmp_path, body)
    assert "self_test" in run.manifest
    assert "order-1" in sources(run, step=12)


def test_a_bad_loss_that_comes_for_the_first_time_in_mid_run_stops_nothing(tmp_path):
    drawn = counting()

    def loss_fn(model, batch):
        return (
            cross_entropy(model, batch) + 0.0 * next(drawn) + (cross_entropy(model, batch) * next(drawn)).detach() * 0
        )

    def random(model, batch):
        return loss_fn(model, batch) * (1 + (torch.initial_seed() and next(drawn) % 1))

    def body(step, model, optimizer, loss, batch):
        steps(optimizer, loss if step > 9 else (lambda b: cross_entropy(model, b)), [batch])

    def shadowed(model, batch):
        if not isinstance(next(model.parameters()), nn.Parameter):
            raise RuntimeError("only the real thing")
        return random(model, batch)

    run, said = compare(tmp_path, body, loss_fn=shadowed)
    assert_said(run, said, "failed", "only the real thing")
    assert sources(run) == {"measured"}
    assert any("its test failed" in m for m in messages(run, "withheld"))


def test_a_batch_of_another_structure_is_followed(tmp_path):
    def loss_fn(model, batch):
        return cross_entropy(model, (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch)

    def body(step, model, optimizer, loss, batch):
        x, labels = batch
        steps(optimizer, loss, [{"x": x, "labels": labels} if step >= 10 else batch])

    run, said = compare(tmp_path, body, loss_fn=loss_fn)
    assert not said
    assert sources(run, step=8) == {"look-ahead", "order-0", "order-1"}
    assert "measured" in sources(run, step=16)


def test_an_observable_that_raises_is_withheld_and_the_norms_go_on(tmp_path):
    calls = counting()

    def fragile(named: dict[str, Tensor]) -> Tensor:
        if next(calls) > 30:
            raise ValueError("no more")
        return named["head.bias"].sum()

    run, said = compare(tmp_path, usual, observables={"fragile": fragile, "sturdy": lambda n: n["head.bias"].sum()})
    assert_said(run, said, "observable_failed", "'fragile' is withheld from here on: it raised ValueError: no more")
    assert len(messages(run, "observable_failed")) == 1
    table = run.table()
    last = {q: table[table.quantity == q].step.max() for q in ("fragile", "sturdy", "norm")}
    assert 0 < last["fragile"] < last["sturdy"] == last["norm"] == 36
    assert at(run, 0, "fragile") == at(run, 0, "sturdy")
    assert not table.value.isna().any()
    assert {"measured", "order-1"} <= sources(run, "sturdy_rate", step=28)


def test_a_schedule_that_raises_skips_its_record_and_disturbs_no_other(tmp_path):
    def every(step: int) -> bool:
        if step == 10:
            raise ZeroDivisionError("at ten")
        return step % 4 == 0

    run, said = compare(tmp_path, usual, every=every)
    assert_said(run, said, "failed", "the schedule could not be followed (ZeroDivisionError: at ten)")
    clean = tracked(tmp_path / "clean", every=4, count=COUNT)
    assert run.table().equals(clean.table())


def test_a_batch_that_is_written_to_after_its_step_costs_the_rates_of_its_record(tmp_path):
    def body(step, model, optimizer, loss, batch):
        steps(optimizer, loss, [batch])
        if step == 9:
            batch[0].mul_(1.1)

    run, said = compare(tmp_path, body)
    assert_said(run, said, "batch_rewritten", "of step 8: its batch was written to in place")
    assert not sources(run, step=8)
    assert {"measured", "order-1"} <= sources(run, step=12)


def test_a_batch_that_is_written_to_before_its_step_is_not_predicted_with(tmp_path):
    def body(step, model, optimizer, loss, batch):
        optimizer.zero_grad()
        loss(batch).backward()
        if step == 8:
            batch[0].mul_(1.1)
        optimizer.step()

    run, said = compare(tmp_path, body)
    assert_said(run, said, "withheld", "the batch was written to in place between its forward pass and the step")
    assert "order-1" not in sources(run, step=8)
    assert "order-1" in sources(run, step=12)


def test_a_loss_that_fails_in_the_shadow_evaluation_only_costs_its_predictions(tmp_path):
    calls = counting()

    def loss_fn(model: nn.Module, batch) -> Tensor:
        value = cross_entropy(model, batch)
        if not isinstance(next(model.parameters()), nn.Parameter) and next(calls) > 14:
            raise RuntimeError("counted enough")
        return value

    run, said = compare(tmp_path, usual, loss_fn=loss_fn)
    assert_said(run, said, "failed", "a prediction could not be followed (RuntimeError: counted enough)")
    table = run.table()
    assert set(table[table.quantity == "norm"].step) == set(range(0, COUNT, 4))
    assert sources(run, step=28) == {"measured"}
    assert at(run, 28, "loss") == pytest.approx(at(tracked(tmp_path / "clean", every=4, count=COUNT), 28, "loss"))


@pytest.mark.parametrize("wrong", ["a float", "a vector"])
def test_a_loss_that_becomes_something_else_is_still_the_users(tmp_path, wrong):
    def loss_fn(model: nn.Module, batch) -> Any:
        x, labels, odd = batch
        each = nn.functional.cross_entropy(model(x), labels, reduction="none")
        return (each.mean().item() if wrong == "a float" else each) if odd else each.mean()

    def body(step, model, optimizer, loss, batch):
        optimizer.zero_grad()
        value = loss((*batch, step == 9))
        if isinstance(value, Tensor):
            value.mean().backward()
        optimizer.step()

    run, said = compare(tmp_path, body, loss_fn=loss_fn)
    assert any("the loss could not be followed (LossNotScalarError" in m for m in said)
    assert {"measured", "order-1"} <= sources(run, step=16)


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


@pytest.mark.parametrize("name", ["lifted", pytest.param("full", marks=pytest.mark.slow)])
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
