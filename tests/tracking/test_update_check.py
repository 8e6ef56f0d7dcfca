"""A step that is not gradient descent on the remembered batch is noticed, and not predicted."""

import warnings
from typing import Any

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD
from trainings import LR, at, kinds, messages, sources, steps, tracked, train

import eom
from eom.errors import TrackingWarning

ROUTES: dict[str, dict[str, Any]] = {
    "double-backward": {},
    "difference": {"product": "difference"},
    "difference without bars": {"product": "difference", "bars": False},
    "order 0": {"order": 0},
    "order 2": {"order": 2},
    "float64": {"precision": torch.float64},
}
routes = pytest.mark.parametrize("settings", ROUTES.values(), ids=ROUTES)


def follow(tmp_path, body, count: int = 20, lr: float = LR, **settings: Any) -> eom.Run:
    """Train with ``body(step, model, optimizer, tracker, batch)`` as one step of the loop."""
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=lr)

    def step_of(step: int, tracker: Any) -> None:
        optimizer.zero_grad()
        body(step, model, optimizer, tracker, batch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        return train(tmp_path / "run", model, optimizer, step_of, count=count, **settings)


def assert_withheld(run: eom.Run, step: int, size: float | None = None) -> None:
    """The record of a step says by how much, predicts nothing, and is still measured."""
    if size is not None:
        assert at(run, step, "update_mismatch") == pytest.approx(size, rel=1e-6)
    assert at(run, step, "update_mismatch") > 1e-6
    assert not {"order-0", "order-1", "order-2", "reconstructed"} & sources(run, step=step)
    assert "measured" in sources(run, "norm_squared", step)
    assert "update_mismatch" in kinds(run)


@routes
def test_an_unclipped_run_has_no_mismatch(tmp_path, settings):
    run = tracked(tmp_path / "run", **settings)
    table = run.table()
    mismatch = table[table.quantity == "update_mismatch"]
    assert mismatch.step.tolist() == [0, 5, 10, 15]
    assert mismatch.value.max() < 1e-12
    assert not kinds(run)


@routes
def test_clipping_that_bites_is_recorded_with_its_size(tmp_path, settings):
    norms = {}

    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        norms[step] = float(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
        optimizer.step()

    run = follow(tmp_path, body, **settings)
    for step in (0, 5, 10):
        assert_withheld(run, step, 1 - 0.1 / (norms[step] + 1e-6))  # as torch clips
        assert "measured" in sources(run, step=step)


@routes
def test_clipping_that_does_not_bite_is_no_mismatch(tmp_path, settings):
    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()

    run = follow(tmp_path, body, **settings)
    assert not kinds(run)
    assert "order-0" in sources(run, step=10)


@routes
def test_clipping_that_begins_to_bite_is_noticed_from_then_on(tmp_path, settings):
    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0 if step < 8 else 0.01)
        optimizer.step()

    run = follow(tmp_path, body, **settings)
    assert "order-0" in sources(run, step=0)
    assert_withheld(run, 10)


@routes
def test_a_second_loss_is_noticed(tmp_path, settings):
    def body(step, model, optimizer, tracker, batch):
        (tracker.loss(batch) + 0.1 * model.head.weight.square().sum()).backward()
        optimizer.step()

    run = follow(tmp_path, body, **settings)
    for step in (0, 5, 10):
        assert_withheld(run, step)


@pytest.mark.parametrize("weight", [1e-1, 1e-4])
@pytest.mark.parametrize("route", ["double-backward", "difference", "difference without bars"])
def test_a_second_loss_that_joins_later_is_noticed(tmp_path, route, weight):
    def body(step, model, optimizer, tracker, batch):
        second = weight * model.head.weight.square().sum() if step >= 10 else 0.0
        (tracker.loss(batch) + second).backward()
        optimizer.step()

    run = follow(tmp_path, body, **ROUTES[route])
    assert "order-1" in sources(run, step=0)
    assert_withheld(run, 10)
    assert_withheld(run, 15)


@routes
def test_a_batch_that_was_not_remembered_is_noticed(tmp_path, settings):
    def body(step, model, optimizer, tracker, batch):
        x, labels = batch
        tracker.observe(batch)
        cross_entropy(model, (x.flip(0), labels)).backward()
        optimizer.step()

    run = follow(tmp_path, body, **settings)
    for step in (0, 5, 10):
        assert_withheld(run, step)


@routes
def test_a_write_to_the_weights_between_the_loss_and_the_step_is_noticed(tmp_path, settings):
    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        if step == 5:
            with torch.no_grad():
                model.head.weight.mul_(0.99)
        optimizer.step()

    run = follow(tmp_path, body, **settings)
    assert "order-0" in sources(run, step=0)
    assert_withheld(run, 5)
    assert "order-0" in sources(run, step=10)


@pytest.mark.parametrize("when", [1, 4, 6])
def test_a_write_to_the_weights_after_a_step_ends_the_record_in_a_look_ahead(tmp_path, when):
    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        optimizer.step()
        if step == when:
            with torch.no_grad():
                model.head.weight.mul_(0.99)

    run = follow(tmp_path, body, every=100, count=12)
    clean = tracked(tmp_path / "clean", decay=0.0, every=100, count=12)
    assert sources(run) == ({"measured", "reconstructed"} if when == 6 else {"look-ahead"}) | {"order-0", "order-1"}
    source = "measured" if when == 6 else "look-ahead"
    assert at(run, 0, "norm_squared_rate", source) == pytest.approx(at(clean, 0, "norm_squared_rate"), rel=1e-9)
    assert kinds(run) == (set() if when == 6 else {"weights_written"})


def test_decay_by_hand_after_every_step_withholds_displacements(tmp_path):
    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        optimizer.step()
        with torch.no_grad():
            model.head.weight.mul_(0.999)

    run = follow(tmp_path, body, horizon=5, horizons=1)
    assert "norm_displacement" not in set(run.table().quantity)
    assert "written to" in messages(run, "horizon_withheld")[0]


def test_clipping_on_the_way_withholds_a_displacement(tmp_path):
    def body(step, model, optimizer, tracker, batch):
        tracker.loss(batch).backward()
        if step >= 10:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()

    run = follow(tmp_path, body, horizon=12, horizons=1)
    assert "norm_displacement" not in set(run.table().quantity)
    assert "not gradient descent on the remembered batch" in messages(run, "horizon_withheld")[0]


def test_momentum_that_begins_in_mid_run_is_not_taken_for_descent(tmp_path):
    def body(step, model, optimizer, tracker, batch):
        optimizer.param_groups[0]["momentum"] = 0.9 if step >= 7 else 0.0
        tracker.loss(batch).backward()
        optimizer.step()

    run = follow(tmp_path, body)
    assert "order-1" in sources(run, step=0)
    assert sources(run, step=5) == {"look-ahead", "order-0", "order-1"}
    assert sources(run, step=10) == {"measured"}
    assert any("momentum" in m for m in messages(run, "withheld"))


def test_a_second_optimizer_on_the_same_model_is_noticed(tmp_path):
    model, batch = tanh_mlp()
    by = [SGD(model.get_submodule(k).parameters(), lr=LR) for k in ("first", "head")]

    def body(step, tracker):
        model.zero_grad()
        tracker.loss(batch).backward()
        for optimizer in reversed(by):
            optimizer.step()

    with pytest.warns(TrackingWarning, match="written to between two steps"):
        run = train(tmp_path / "run", model, by[1], body, count=12)
    assert sources(run, step=5) == {"look-ahead", "order-0", "order-1"}
    errors = [
        abs(at(run, 5, "norm_squared_rate", f"order-{k}") - at(run, 5, "norm_squared_rate", "look-ahead"))
        for k in (0, 1)
    ]
    assert errors[1] < errors[0] / 10
    assert at(run, 5, "norm_squared_rate", "order-0", "first.weight") == 0.0


def test_a_gradient_that_vanishes_exactly_is_no_mismatch(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=0.1)
    x = torch.ones(3, 2)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]).relu() * batch[1]).mean() + 0.0 * model(batch[0]).sum()

    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.5)
    with eom.track(model, optimizer, loss_fn, tmp_path / "run", every=1) as tracker:
        steps(optimizer, tracker.loss, [(x, torch.ones(3, 1))] * 20)
    table = tracker.run.table()
    assert at(tracker.run, 19, "gradient_norm") == 0.0
    assert table[table.quantity == "update_mismatch"].value.max() < 1e-14
    assert not kinds(tracker.run)


def test_small_steps_in_float32_are_no_mismatch(tmp_path):
    model, (x, labels) = tanh_mlp()
    model = model.float()
    optimizer = SGD(model.parameters(), lr=1e-5)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:
        steps(optimizer, tracker.loss, [(x.float(), labels)] * 12)
    assert not kinds(tracker.run)
    assert "order-1" in sources(tracker.run)
