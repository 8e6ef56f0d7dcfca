"""The loss and the batches of a record are those behind the gradient that its step used."""

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import nn
from torch.optim import SGD
from trainings import LR, at, kinds, messages, sources, steps, train

import eom
from eom.errors import EomError


@pytest.fixture
def setup():
    model, (x, y) = tanh_mlp()
    return model, SGD(model.parameters(), lr=LR, weight_decay=0.01), [(x[i::3], y[i::3]) for i in range(3)]


@pytest.mark.parametrize("settings", [{"order": None}, {}])
def test_a_loss_that_led_to_no_step_is_left_out(tmp_path, setup, settings):
    """The gradients of the step before are there still when the next loss is computed."""
    model, optimizer, batches = setup
    losses = {}

    def body(step, tracker):
        tracker.loss(batches[2])  # in passing, as a validation loss
        loss = tracker.loss(batches[step % 2])
        losses[step] = loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    run = train(tmp_path / "run", model, optimizer, body, count=7, every=1, **settings)
    assert [at(run, step, "loss") for step in range(7)] == [losses[step] for step in range(7)]
    assert "update_mismatch" not in kinds(run)


def test_two_losses_that_are_added_before_one_backward_pass_are_one_step(tmp_path, setup):
    model, optimizer, batches = setup

    def body(step, tracker):
        optimizer.zero_grad()
        ((tracker.loss(batches[0]) + tracker.loss(batches[1])) / 2).backward()
        optimizer.step()

    with torch.no_grad():
        first = (cross_entropy(model, batches[0]) + cross_entropy(model, batches[1])) / 2
    run = train(tmp_path / "run", model, optimizer, body, count=8, every=5)
    assert at(run, 0, "loss") == pytest.approx(first.item(), rel=1e-14)
    assert "update_mismatch" not in kinds(run)
    assert "order-1" in sources(run, step=5)


def test_a_loss_that_raised_is_forgotten(tmp_path, setup):
    model, optimizer, batches = setup
    fails = []

    def loss_fn(model: nn.Module, batch):
        if fails:
            raise ArithmeticError(fails.pop())
        return cross_entropy(model, batch)

    def body(step, tracker):
        if step == 5:
            fails.append("once")
            with pytest.raises(ArithmeticError):
                tracker.loss(batches[1])
        steps(optimizer, tracker.loss, [batches[0]])

    run = train(tmp_path / "run", model, optimizer, body, count=12, loss_fn=loss_fn)
    assert "update_mismatch" not in kinds(run)
    assert "order-1" in sources(run, step=5)


def test_an_optimizer_that_takes_no_step_any_more_is_said(tmp_path, setup):
    model, optimizer, batches = setup
    other = SGD(model.parameters(), lr=LR)

    def body(step, tracker):
        loss = tracker.loss(batches[0])
        optimizer.zero_grad()
        loss.backward()
        (optimizer if step < 10 else other).step()

    with pytest.warns(match="takes no step"):
        run = train(tmp_path / "run", model, optimizer, body, count=30)
    assert len(messages(run, "no_steps")) == 1


@pytest.mark.parametrize("lr", [LR, 1e-9])
@pytest.mark.parametrize("settings", [{"order": 0}, {}, {"product": "difference"}])
def test_a_loss_that_the_user_doubles_in_mid_run_is_found(tmp_path, setup, lr, settings):
    """At order 0, where nothing else is computed, at one record in ten."""
    model, _, batches = setup
    model = model.float()
    batch = batches[0][0].float(), batches[0][1]
    optimizer = SGD(model.parameters(), lr=lr)

    def body(step, tracker):
        optimizer.zero_grad()
        (tracker.loss(batch) * (1 if step < 15 else 2)).backward()
        optimizer.step()

    run = train(tmp_path / "run", model, optimizer, body, count=112, every=10)
    assert "update_mismatch" in kinds(run)


@pytest.mark.parametrize("double", [False, True])
def test_a_displacement_over_steps_of_another_loss_is_withheld(tmp_path, setup, double):
    """Between records no update is checked."""
    model, optimizer, batches = setup

    def body(step, tracker):
        optimizer.zero_grad()
        (tracker.loss(batches[0]) * (2 if double and step % 10 else 1)).backward()
        optimizer.step()

    run = train(tmp_path / "run", model, optimizer, body, count=12, every=10, horizon=6, horizons=1, sharpness=0)
    assert ("horizon_withheld" in kinds(run)) == double
    assert ("position_error" in set(run.table().quantity)) != double


def test_a_hook_that_was_there_first_does_not_hide_the_gradient_or_the_learning_rate(tmp_path, setup):
    model, optimizer, batches = setup

    def hook(optimizer, *_):
        optimizer.zero_grad(set_to_none=False)
        optimizer.param_groups[0]["lr"] /= 2

    optimizer.register_step_post_hook(hook)
    norms = {}

    def body(step, tracker):
        tracker.loss(batches[0]).backward()
        norms[step] = torch.cat([torch.add(p.grad, p, alpha=0.01).flatten() for p in model.parameters()]).norm().item()
        optimizer.step()

    run = train(tmp_path / "run", model, optimizer, body, count=4, every=1)
    assert [at(run, step, "lr") for step in range(4)] == [LR / 2**step for step in range(4)]
    assert [at(run, step, "gradient_norm") for step in range(4)] == pytest.approx([norms[s] for s in range(4)])


def test_labels_that_change_places_in_one_tensor_are_another_batch(tmp_path, setup):
    model, optimizer, batches = setup
    x, y = batches[0][0].clone(), batches[0][1].clone()

    def body(step, tracker):
        steps(optimizer, tracker.loss, [(x, y)])
        y.copy_(y.roll(1))

    with pytest.warns(match="written to in place"):
        run = train(tmp_path / "run", model, optimizer, body, count=12)
    assert "measured" not in sources(run, step=0)


def test_a_tracker_is_opened_once(tmp_path, setup):
    model, optimizer, _ = setup
    with (
        eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker,
        pytest.raises(EomError, match="open already"),
    ):
        tracker.__enter__()


def test_a_folder_of_a_refused_loss_can_be_used_again(tmp_path, setup):
    model, optimizer, batches = setup
    with pytest.raises(EomError), eom.track(model, optimizer, lambda m, b: m(b[0]), tmp_path / "run") as tracker:
        tracker.loss(batches[0])
    assert not (tmp_path / "run").exists()
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run") as tracker:
        steps(optimizer, tracker.loss, batches)


def test_a_relative_folder_stays_where_it_was(tmp_path, setup, monkeypatch):
    model, optimizer, batches = setup
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def body(step, tracker):
        steps(optimizer, tracker.loss, [batches[0]])
        if step == 3:
            monkeypatch.chdir(tmp_path / "elsewhere")

    train(Path("run"), model, optimizer, body, count=12)
    assert eom.open_run(tmp_path / "run").manifest["steps"] == 12


def test_a_run_is_resumed_with_its_own_groups_observables_and_steps_only(tmp_path, setup):
    model, optimizer, batches = setup
    f, g = (lambda named, k=k: next(iter(named.values())).sum() * k for k in (1.0, 2.0))

    def body(step, tracker):
        steps(optimizer, tracker.loss, [batches[0]])

    names = [k for k, _ in model.named_parameters()]
    own: dict[str, Any] = {"observables": {"x": f, "y": g}, "groups": {"a": [names[0]], "b": [names[2]]}}
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", **own) as tracker:
        for step in range(12):
            body(step, tracker)
        state = tracker.state_dict()
    before = (tmp_path / "run" / "table.csv").read_bytes()
    others: list[dict[str, Any]] = [
        {"observables": {"y": g, "x": f}},
        {"observables": {"x": f}},
        {"groups": {"a": [names[2]], "b": [names[0]]}},
    ]
    for other in others:
        with pytest.raises(EomError, match="same groups and observables"):
            eom.track(model, optimizer, cross_entropy, tmp_path / "run", **(own | other), resume=state)
    with pytest.raises(EomError, match="has 12"):
        eom.track(model, optimizer, cross_entropy, tmp_path / "run", **own, resume=1000)
    small = nn.Linear(4, 3).double()
    with pytest.raises(EomError, match="this model has 15"):
        eom.track(small, SGD(small.parameters(), lr=LR), cross_entropy, tmp_path / "run", resume=10)
    assert (tmp_path / "run" / "table.csv").read_bytes() == before


def test_settings_that_are_changed_at_a_resume_hold_from_there_on(tmp_path, setup):
    model, optimizer, batches = setup

    def run_on(steps_, **settings):
        with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, **settings) as tracker:
            for _ in range(steps_):
                steps(optimizer, tracker.loss, [batches[0]])
            return tracker.state_dict(), tracker

    state, _ = run_on(12, order=1)
    _, tracker = run_on(18, order=2, resume=state)
    assert "order-2" not in sources(tracker.run, step=5)
    assert "order-2" in sources(tracker.run, step=20)


def test_two_groups_of_one_name_are_refused(tmp_path, setup):
    model, optimizer, _ = setup
    names = [k for k, _ in model.named_parameters()]
    groups: Any = {1: names[:1], "1": names[1:]}
    with pytest.raises(EomError, match="same name"):
        eom.track(model, optimizer, cross_entropy, tmp_path / "run", groups=groups)
