"""Accumulation, skipped steps, closures, repeated steps: what a step is, and which loss belongs to it."""

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD
from trainings import LR, assert_same, at, kinds, messages, sources, state_of, steps, time_of, tracked, train

import eom
from eom.errors import TrackingWarning


def halves(batch: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    x, labels = batch
    return [(x[:12], labels[:12]), (x[12:], labels[12:])]


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("settings", [{}, {"product": "difference"}, {"order": 2}], ids=str)
def test_accumulated_gradients_of_equal_parts_are_the_step_of_their_mean(tmp_path, to_none, settings):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, **settings) as tracker:
        for _ in range(20):
            optimizer.zero_grad(set_to_none=to_none)
            for part in halves(batch):
                (tracker.loss(part) / 2).backward()
            optimizer.step()
    whole, run = tracked(tmp_path / "whole", **settings), tracker.run
    assert not kinds(run)
    assert sources(run) == sources(whole)
    for step in (0, 5, 10):
        assert at(run, step, "update_mismatch") < 1e-12
        assert at(run, step, "loss") == pytest.approx(at(whole, step, "loss"), rel=1e-12)
        for source in ("measured", "order-0", "order-1"):
            assert at(run, step, "norm_squared_rate", source) == pytest.approx(
                at(whole, step, "norm_squared_rate", source), rel=1e-6
            )


def test_a_sum_over_parts_instead_of_their_mean_is_noticed(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)

    def body(step, tracker):
        optimizer.zero_grad()
        for part in halves(batch):
            tracker.loss(part).backward()
        optimizer.step()

    with pytest.warns(TrackingWarning, match="differs by 1 of its size"):
        run = train(tmp_path / "run", model, optimizer, body, count=8)
    assert at(run, 0, "update_mismatch") == pytest.approx(1.0)
    assert not {"order-0", "order-1"} & sources(run)


@pytest.mark.parametrize("late", [False, True], ids=["zero_grad first", "zero_grad after the loss"])
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("fused", [False, True], ids=["plain SGD", "fused SGD"])
def test_steps_that_a_gradient_scaler_skips_are_no_steps(tmp_path, late, to_none, fused):
    def scaled(disabled: bool):
        model, batch = tanh_mlp()
        optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        taken = []
        with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=4, disabled=disabled) as tracker:
            for attempt in range(24):
                if not late:
                    optimizer.zero_grad(set_to_none=to_none)
                value = tracker.loss(batch)
                if late:
                    optimizer.zero_grad(set_to_none=to_none)
                scaler.scale(value).backward()
                if attempt in (0, 4, 5, 11):
                    model.get_parameter("head.bias").grad[0] = torch.inf  # type: ignore[index]
                else:
                    taken.append(value.item())
                scaler.step(optimizer)
                scaler.update()
        return tracker, taken, state_of(model, optimizer)

    (tracker, losses, state), (_, _, bare) = scaled(False), scaled(True)
    assert_same(state, bare)
    run = tracker.run
    assert run.manifest["steps"] == 20
    assert not kinds(run)
    for step in range(0, 20, 4):
        assert at(run, step, "loss") == losses[step]
        assert at(run, step, "update_mismatch") < 1e-7
        assert time_of(run, step) == pytest.approx(step * LR)
    assert {"measured", "order-0", "order-1"} <= sources(run, step=8)


def test_closures_are_followed_like_plain_steps(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:

        def closure():
            optimizer.zero_grad()
            value = tracker.loss(batch)
            value.backward()
            return value

        for _ in range(20):
            optimizer.step(closure)  # type: ignore[arg-type]
    assert tracker.run.table().equals(tracked(tmp_path / "plain").table())


def test_a_second_step_on_the_same_gradient_is_counted_and_not_predicted(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)

    def body(step, tracker):
        optimizer.zero_grad()
        tracker.loss(batch).backward()
        optimizer.step()
        optimizer.step()

    with pytest.warns(TrackingWarning, match=r"tracker\.loss was not called before this step"):
        run = train(tmp_path / "run", model, optimizer, body, count=5, every=1)
    assert run.manifest["steps"] == 10
    assert time_of(run, 9) == pytest.approx(9 * LR)
    assert "order-1" in sources(run, step=4)
    assert "order-1" not in sources(run, step=5)
    assert run.table().query("quantity == 'loss'").step.tolist() == [0, 2, 4, 6, 8]


def test_validation_without_gradients_is_not_remembered(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    other = (batch[0] + 1, batch[1])
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:
        for _ in range(20):
            with torch.no_grad():
                tracker.loss(other)
            optimizer.zero_grad()
            value = tracker.loss(batch)
            with torch.inference_mode():
                tracker.loss(other)
            value.backward()
            optimizer.step()
    assert tracker.run.table().equals(tracked(tmp_path / "plain").table())


def test_a_loss_that_was_computed_but_not_stepped_on_is_forgotten(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:
        for _ in range(20):
            optimizer.zero_grad()
            tracker.loss((batch[0] + 1, batch[1]))
            tracker.loss(batch).backward()
            optimizer.step()
    assert tracker.run.table().equals(tracked(tmp_path / "plain").table())


def test_evaluation_mode_at_the_end_does_not_change_what_was_trained(tmp_path):
    """Records that are completed after the last step see the model as it was in training."""

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)), tanh_mlp()[1]

    def table(evaluate: bool):
        model, batch = make()
        optimizer = SGD(model.parameters(), lr=LR)
        with eom.track(model, optimizer, cross_entropy, tmp_path / str(evaluate), every=5) as tracker:
            steps(optimizer, tracker.loss, [batch] * 8)
            model.train(not evaluate)
        assert model.training is not evaluate
        return tracker.run.table()

    assert table(True).equals(table(False))


def test_batch_norm_switched_to_evaluation_within_a_record_ends_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    batch = tanh_mlp()[1]
    optimizer = SGD(model.parameters(), lr=LR)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=100) as tracker:
        steps(optimizer, tracker.loss, [batch] * 3)
        model[1].eval()
        steps(optimizer, tracker.loss, [batch] * 9)
    assert sources(tracker.run) == {"look-ahead", "order-0", "order-1"}
    error = [abs(at(tracker.run, 0, "norm_squared_rate", f"order-{k}") - rate(tracker.run)) for k in (0, 1)]
    assert error[1] < error[0] / 5


def rate(run: eom.Run) -> float:
    return at(run, 0, "norm_squared_rate", "look-ahead")


def test_the_end_of_a_training_is_said_in_the_manifest(tmp_path):
    run = tracked(tmp_path / "run", count=11)
    assert run.manifest["steps"] == 11
    assert run.manifest["records"] == 3
    assert "finished" in run.manifest
    assert not messages(run, "interrupted")
