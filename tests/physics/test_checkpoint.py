"""Checkpoints: trainings go on as if uncut, and not from those of others."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from known_laws import Quadratic, shot, spring_data
from torch import nn

from eom import physics
from eom.errors import (
    DataError,
    StepError,
)
from eom.physics import LearnedSystem, Trajectories
from eom.physics.checkpoint import about, copied, load


def test_a_training_goes_on_from_its_checkpoint_as_if_uncut(tmp_path):
    data = spring_data()

    def run(cuts: list[int], path) -> LearnedSystem:
        for steps in cuts:
            torch.manual_seed(0)
            model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
            physics.fit(model, data, steps=steps, batch=16, every=5, checkpoint=path, validation=data.select([0]))
        return model

    whole, cut = run([20], tmp_path / "a.npz"), run([10, 20], tmp_path / "b.npz")
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)
    other = physics.energy_model(2, physics.dense(2, 1, 9)).double()
    with pytest.raises(DataError, match="is no checkpoint of this model"):
        physics.fit(other, data, steps=20, checkpoint=tmp_path / "a.npz")


def mean_size(model: LearnedSystem, window) -> torch.Tensor:
    return model.residual(window).abs().mean()


@pytest.mark.parametrize("validated", [True, False], ids=["validated", "alone"])
@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (partial(shot, nn.Softplus), None),
        (partial(shot, sign=-1.0), None),
        (partial(shot, stepper=physics.RK4()), None),
        (partial(shot, substeps=2), None),
        (shot, mean_size),
    ],
    ids=["activation", "structure", "stepper", "substeps", "loss"],
)
def test_a_checkpoint_of_other_settings_is_refused_and_the_model_left_as_it_is(tmp_path, make, loss, validated):
    begin = partial(
        physics.fit, data=spring_data(), steps=2, checkpoint=tmp_path / "a.npz",
        validation=spring_data(2, noise=0.1) if validated else None,
    )  # fmt: skip
    begin(shot())
    begin(shot())
    model = make()
    before = copied(model)
    with pytest.raises(DataError, match=r"have the loss .* with the structure, .* and had .*: give those of then, or"):
        begin(model, loss=None if loss is None else partial(loss, model))
    torch.testing.assert_close(copied(model), before, rtol=0, atol=0)


def test_losses_on_other_unseen_data_are_not_compared(tmp_path):
    begin = partial(physics.fit, shot(), spring_data(), steps=2, checkpoint=tmp_path / "a.npz")
    begin(validation=spring_data(2, noise=0.1))
    with pytest.raises(DataError, match=r"have the loss .* validation given here"):
        begin(validation=spring_data(3, noise=0.1))


def test_a_field_that_draws_random_numbers_goes_on_from_its_checkpoint(tmp_path):
    for steps in (2, 4):
        torch.manual_seed(steps)
        net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 2))
        model = LearnedSystem(2, physics.PlainField(net), physics.midpoint, physics.RK4()).double()
        found = physics.fit(
            model, spring_data(), validation=spring_data(2), steps=steps, every=2, checkpoint=tmp_path / "a.npz"
        )
    assert found.history.step.tolist() == [0, 2, 4]


def test_a_loss_that_takes_gradients_itself_goes_on_from_its_checkpoint(tmp_path):
    data, model = spring_data(), shot()

    def loss(window):
        u = window.u.clone().requires_grad_()
        [slope] = torch.autograd.grad(model.field.energy(u).sum(), u, create_graph=True)  # type: ignore[operator, union-attr]
        return physics.mean_square(model, window) + slope.square().mean()

    for steps in (2, 4):
        found = physics.fit(model, data, loss=loss, steps=steps, every=2, checkpoint=tmp_path / "a.npz")
    assert found.history.step.tolist() == [0, 2, 4]
    assert found.history.loss.is_monotonic_decreasing


def test_a_training_in_bfloat16_goes_on_from_its_checkpoint(tmp_path):
    data, ends = spring_data().to(torch.bfloat16), []
    for name, cuts in {"a": [4], "b": [2, 4]}.items():
        for steps in cuts:
            torch.manual_seed(0)
            model = LearnedSystem(2, physics.PlainField(physics.dense(2, 2, 8)), physics.midpoint, physics.RK4())
            physics.fit(model.bfloat16(), data, steps=steps, every=2, checkpoint=tmp_path / f"{name}.npz")
        ends.append(copied(model))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def with_rule(model: LearnedSystem) -> LearnedSystem:
    model.rule = physics.midpoint
    return model


def wide() -> LearnedSystem:
    return physics.energy_model(2, physics.dense(2, 1, 9)).double()


def backwards(data: Trajectories) -> Trajectories:
    """The same states, with other rates."""
    return dataclasses.replace(data, slopes=None if data.slopes is None else -data.slopes)


def other_kind(path, model, kind, data=None) -> None:
    physics.fit(model, data or spring_data(), steps=2, optimizer=kind(model.parameters(), 1e-3), checkpoint=path)


def given_up() -> tuple[float, float]:
    raise StepError("given up at these parameters")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, m: other_kind(path, m, torch.optim.SGD), "given up at these parameters"),
        (lambda path, m: other_kind(path, m, torch.optim.Adam), "written with Adam, and the optimizer is SGD"),
        (lambda path, m: other_kind(path, m, torch.optim.LBFGS), "written with LBFGS, and the optimizer is SGD"),
        (lambda path, m: other_kind(path, physics.energy_model(2, Quadratic()), torch.optim.SGD), "no checkpoint of"),
        (
            lambda path, m: other_kind(path, wide(), torch.optim.SGD),
            r"weight is of shape \[9, 2\], .*s \[8, 2\]: make",
        ),
        (
            lambda path, m: other_kind(path, m, torch.optim.SGD, spring_data(3)),
            "differs in data, window or stride: co",
        ),
        (lambda path, m: other_kind(path, m, torch.optim.SGD, backwards(spring_data())), "it differs in data"),
        (lambda path, m: other_kind(path, with_rule(m), torch.optim.SGD), "it differs in rule: continue"),
        (lambda path, m: path.write_bytes(b"PK"), r"no whole \.npz file of arrays"),
        (lambda path, m: spring_data().save(path), "optimizer: it holds entries, times, states"),
        (lambda path, m: np.savez(path, tree="[1, 2]", generator=np.ones(3)), "is no checkpoint of this model"),
    ],
    ids=[
        "a motion that stops",
        "Adam",
        "LBFGS",
        "another model",
        "another width",
        "other data",
        "other rates",
        "another rule",
        "cut off",
        "trajectories",
        "another tree",
    ],
)
def test_a_file_of_another_training_is_refused_and_nothing_is_changed(tmp_path, write, message):
    torch.manual_seed(0)
    make = lambda: physics.energy_model(2, physics.dense(2, 1, 8)).double()  # noqa: E731 - two of the same
    write(tmp_path / "a.npz", make())
    model = make()
    optimizer, draw = torch.optim.SGD(model.parameters(), 0.01, momentum=0.5), torch.Generator().manual_seed(3)
    physics.fit(model, spring_data(), steps=2, optimizer=optimizer)
    stand = lambda: copy.deepcopy((copied(model), optimizer.state_dict(), draw.get_state()))  # noqa: E731 - thrice
    before = stand()
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npz", model, optimizer, draw, about(model, spring_data().windows()), given_up)
    torch.testing.assert_close(stand(), before, rtol=0, atol=0)
