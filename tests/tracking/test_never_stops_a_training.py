"""After the first step whatever goes wrong is a warning and an event; the training ends with the bits it would have."""

from itertools import count as counting
from typing import Any

import pytest
import torch
from problems import cross_entropy
from torch import Tensor, nn
from trainings import COUNT, assert_said, at, compare, messages, sources, steps, tracked, usual


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
        if next(calls) > 19:
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
    steps = 0

    def loss_fn(model: nn.Module, batch) -> Tensor:
        nonlocal steps
        if isinstance(next(model.parameters()), nn.Parameter):  # the training's own
            steps += 1
        elif steps > COUNT + 20:  # the bare training comes first
            raise RuntimeError("counted enough")
        return cross_entropy(model, batch)

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
