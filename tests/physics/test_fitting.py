"""Training finds the law, goes on from its checkpoints, and leaves the best parameters."""

import copy
import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from known_laws import WIDE, Quadratic, newton, spring_data
from torch import Tensor, nn

import eom
from eom import physics
from eom.errors import (
    DataError,
    LossNotFiniteError,
    SettingError,
    StepError,
)
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.checkpoint import about, copied, load
from eom.physics.systems import rotate

EULER = eom.Euler()
MODELS = {
    "neural ODE": lambda: physics.neural_ode(2, physics.dense(2, 2, 16)),
    "neural ODE, adjoint": lambda: physics.neural_ode(2, physics.dense(2, 2, 16), adjoint=True),
    "second order": lambda: physics.second_order_ode(2, physics.dense(2, 1, 16)),
    "Hamiltonian": lambda: physics.hamiltonian_network(2, physics.dense(2, 1, 16)),
    "separable": lambda: physics.symplectic_network(2, lambda a, b: physics.dense(a, b, 16)),
    "discrete gradient": lambda: physics.energy_model(2, physics.dense(2, 1, 16)),
    "friction": lambda: physics.damped_energy_model(2, physics.dense(2, 1, 16)),
    "Lagrangian": lambda: physics.lagrangian_network(2, physics.dense(2, 1, 16, nn.Softplus)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_and_predicts(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    data = spring_data()
    found = physics.fit(model, data, steps=10, every=1)
    assert found.history.loss.iloc[-1] < found.history.loss.iloc[0]
    predicted = model.predict(data.states[:, 0], data.times[0, :4])
    assert predicted.states.shape == (4, 4, 2)
    assert torch.equal(predicted.states[:, 0], data.states[:, 0])


def test_the_discrete_gradient_finds_the_springs_energy_and_keeps_it():
    """Exactly, at any step: for H = q^2 + p^2 its step is the midpoint's, a rotation by 2 atan(h) in place of 2 h."""
    h = 0.2
    data = data_sets.springs(span=4.0, points=21, noise=0.0).draw(5, seed=0)
    model = physics.energy_model(2, Quadratic(start=0.5))
    physics.fit(model, data, optimizer=newton(model), steps=3)
    torch.testing.assert_close(next(model.parameters()).detach(), torch.full((2,), math.tan(h) / h, dtype=WIDE))
    scores = physics.evaluate(model, physics.spring(), data)
    assert scores.state < 1e-12
    assert scores.energy < 1e-24
    assert scores.drift < 1e-12


def test_the_last_layer_is_found_exactly_whatever_the_others_are():
    """A cubic energy in the span of random features of as many data; then the residual is rounding."""
    torch.manual_seed(0)
    data = data_sets.solitons(12, 4.0, steps=4).draw(4, seed=0, by_scheme=True)
    structure = data_sets.solitons(12, 4.0).system.structure
    energy = physics.GridEnergy((12,), 80, cell=1 / 3, unit=4.0, step=2.0)
    model = physics.energy_model(12, energy, structure).double()
    left = physics.solve_linear(model, data, [energy.last.weight])
    assert left == pytest.approx(float(physics.mean_square(model, data.windows()).detach()), rel=1e-6)
    rates = float((data.states.diff(dim=1) / 1e-3).square().sum(-1).mean())
    assert left < 1e-6 * rates
    gradient = torch.autograd.grad(physics.mean_square(model, data.windows()), energy.last.weight)[0]
    energy.last.weight.data.mul_(1.01)  # no better beside it
    assert float(physics.mean_square(model, data.windows()).detach()) > left
    away = torch.autograd.grad(physics.mean_square(model, data.windows()), energy.last.weight)[0]
    assert float(gradient.norm()) < 1e-4 * float(away.norm())


class WaveDensity(nn.Module):
    """(p^2 + (D u / dx)^2) / 2 of u, p, D u / dx, D p / dx."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., 1:3] ** 2).sum(-1, keepdim=True) / 2


def test_the_energy_of_two_fields_on_a_grid_is_that_of_a_wave():
    system, dx = physics.wave(12, 4.0), 1 / 3
    energy = physics.GridEnergy((12,), fields=2, cell=dx, step=dx)
    energy.density = WaveDensity()  # type: ignore[assignment] - in place of a network
    u = torch.randn(6, 24, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    torch.testing.assert_close(energy(u), system.energy(u), rtol=1e-14, atol=0)
    slope = physics.discrete_gradient(energy, u[1:], u[:-1])
    torch.testing.assert_close(slope, physics.discrete_gradient(system.energy, u[1:], u[:-1]), rtol=0, atol=1e-13)


class InUnits(nn.Module):
    """A last layer of the squares of states in units of ``unit``."""

    def __init__(self, unit: float):
        super().__init__()
        self.unit, self.last = unit, nn.Linear(2, 1)

    def forward(self, u: Tensor) -> Tensor:
        return self.last((u / self.unit) ** 2)


@pytest.mark.parametrize("unit", [1e-7, 1e5, 1e9])
def test_the_last_layer_has_its_digits_in_any_units(unit):
    """Of H = q^2 + p^2, whose midpoint step turns by 2 atan(h) in place of 2 h."""
    data, energy = spring_data(), InUnits(unit)
    data = dataclasses.replace(data, states=unit * data.states, slopes=None)
    physics.solve_linear(physics.energy_model(2, energy).double(), data, [energy.last.weight])
    h = float(data.times[0, 1])
    wanted = torch.full((1, 2), math.tan(h) / h, dtype=WIDE)
    torch.testing.assert_close(energy.last.weight.detach() / unit**2, wanted, rtol=1e-12, atol=0)


def test_a_wide_last_layer_is_found_in_float32_as_in_float64_without_what_its_floats_lose():
    """Columns known to eps say of singular values beyond ``width`` eps what they are to a share 1 / width."""
    width, left = 50, []
    for dtype, rcond in ((torch.float32, 0.0), (WIDE, 50 * torch.finfo(torch.float32).eps)):
        torch.manual_seed(0)
        model = physics.energy_model(2, physics.dense(2, 1, width)).to(dtype)
        last = [model.get_parameter("field.energy.4.weight")]
        left.append(physics.solve_linear(model, spring_data(noise=0.1), last, rcond=rcond))
    assert left[0] == pytest.approx(left[1], rel=1 / width)


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["0.weight"], {}, "not affine in these parameters: give those of the last layer"),
        (["0.weight", "4.weight"], {}, "not affine"),
        (["4.bias"], {}, "do not depend on these parameters, .*: give the weights too"),
        (["4.weight"], {"rcond": math.nan}, "rcond is nan, expected a share .*: 0 or more, below 1"),
        (["4.weight"], {"rcond": 2}, "rcond is 2"),
    ],
    ids=["first layer", "two layers", "constant", "NaN", "all"],
)
def test_what_is_no_linear_problem_is_refused_and_nothing_is_changed(names, settings, message):
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    before = copied(model)
    with pytest.raises(SettingError, match=message):
        physics.solve_linear(
            model, spring_data(), [model.get_parameter(f"field.energy.{name}") for name in names], **settings
        )
    torch.testing.assert_close(copied(model), before, rtol=0, atol=0)


def test_friction_is_learned():
    """A small step, as the learned one fits the step and not the flow."""
    data = data_sets.damped_springs(span=1.0, points=101, noise=0.0, friction=0.3).draw(5, seed=0)
    model = physics.damped_energy_model(2, Quadratic(start=0.9)).double()
    physics.fit(model, data, optimizer=newton(model), steps=3)
    strength = model.field.get_submodule("structure").strength.detach()  # type: ignore[operator, union-attr]
    assert float(strength) == pytest.approx(0.3, rel=1e-3)
    assert physics.evaluate(model, physics.spring(0.3), data).rising == 0


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


def shot(activation: Any = nn.Tanh, *, sign=1.0, stepper=EULER, substeps=1) -> LearnedSystem:
    """Of the same parameters, whatever else is said of it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 1))
    field = physics.EnergyField(net, lambda g: sign * rotate(g))
    return LearnedSystem(2, field, physics.Shooting(stepper, substeps), physics.RK4()).double()


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


def test_the_history_has_the_losses_after_each_step_and_the_start_may_be_the_best():
    data, unseen, model = spring_data(), spring_data(2, noise=0.1), shot()
    measured = lambda of: float(physics.mean_square(model, of.windows()).detach())  # noqa: E731 - thrice
    start = measured(data), measured(unseen)
    uphill = torch.optim.SGD(model.parameters(), 1e-3, maximize=True)
    found = physics.fit(model, data, optimizer=uphill, steps=3, every=2, validation=unseen)
    assert found.history.step.tolist() == [0, 2, 3]
    assert (found.history.loss[0], found.history.validation[0]) == pytest.approx(start, rel=1e-12)
    assert found.history.validation.is_monotonic_increasing
    assert (found.best, measured(unseen)) == (0, pytest.approx(start[1], rel=1e-12))
    alone = physics.fit(model, data, steps=2)
    assert alone.history.loss.tolist() == [pytest.approx(start[0], rel=1e-12), pytest.approx(measured(data), rel=1e-12)]


def test_a_training_that_is_refused_leaves_the_model_as_it_is(tmp_path):
    bare = physics.Trajectories(spring_data().times, spring_data().states)
    model = physics.hamiltonian_network(2, physics.dense(2, 1, 8)).double()
    physics.fit(model, spring_data(), steps=2, checkpoint=tmp_path / "a.npz")
    other = physics.hamiltonian_network(2, physics.dense(2, 1, 8)).double()
    before = copied(other)
    with pytest.raises(DataError, match="none were observed"):
        physics.fit(other, bare, steps=2, checkpoint=tmp_path / "a.npz")
    torch.testing.assert_close(copied(other), before, rtol=0, atol=0)


def test_training_stops_early_with_the_best_parameters():
    data, unseen = spring_data(2, noise=0.1, points=6), spring_data(4, noise=0.1)
    torch.manual_seed(0)
    model = physics.neural_ode(2, physics.dense(2, 2, 32)).double()
    model.rule = physics.midpoint
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    found = physics.fit(model, data, optimizer=optimizer, steps=2000, every=10, validation=unseen, patience=5)
    assert found.history.step.iloc[-1] < 2000
    least = found.history.validation.min()
    assert found.history.validation.iloc[-1] > least
    assert float(physics.mean_square(model, unseen.windows()).detach()) == pytest.approx(least, rel=1e-12)


def test_a_training_that_has_stopped_early_is_at_its_end_when_begun_again(tmp_path):
    data, model = spring_data(), physics.energy_model(2, physics.dense(2, 1, 8)).double()

    def begun(patience: int) -> list[int]:
        still = torch.optim.SGD(model.parameters(), 0.0)
        path = tmp_path / "a.npz"
        found = physics.fit(
            model, data, optimizer=still, steps=99, every=2, validation=data, patience=patience, checkpoint=path
        )
        return found.history.step.tolist()

    assert begun(2) == begun(2) == [0, 2, 4]
    assert begun(3) == begun(3) == [0, 2, 4, 6]


def test_a_training_in_bfloat16_goes_on_from_its_checkpoint(tmp_path):
    data, ends = spring_data().to(torch.bfloat16), []
    for name, cuts in {"a": [4], "b": [2, 4]}.items():
        for steps in cuts:
            torch.manual_seed(0)
            model = LearnedSystem(2, physics.PlainField(physics.dense(2, 2, 8)), physics.midpoint, physics.RK4())
            physics.fit(model.bfloat16(), data, steps=steps, every=2, checkpoint=tmp_path / f"{name}.npz")
        ends.append(copied(model))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_a_tracked_training_is_the_same_and_predicted(tmp_path):
    data = spring_data()
    ends = []
    for tracked in (True, False):
        torch.manual_seed(0)
        model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        run = tmp_path / "run"
        with eom.track(model, optimizer, physics.mean_square, run=run, disabled=not tracked, sharpness=0) as tracker:
            physics.fit(model, data, optimizer=optimizer, loss=tracker.loss, steps=21)
        ends.append(torch.cat([x.detach().flatten() for x in model.parameters()]))
    assert torch.equal(*ends)
    rows = eom.open_run(tmp_path / "run").table()
    rows = rows.loc[(rows.quantity == "norm_squared_rate") & (rows.group == "all")]
    table = rows.pivot(index="step", columns="source", values="value")
    off = {k: ((table[f"order-{k}"] - table.measured) / table.measured).abs().max() for k in (0, 1)}
    assert off[1] < 1e-3
    assert off[1] < off[0] / 20


def test_a_loss_that_is_not_finite_leaves_the_best_parameters():
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    before = [x.detach().clone() for x in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 1e200)
    with pytest.raises(LossNotFiniteError, match=r"has its parameters of step 0 again\. Take a smaller learning rate"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=50)
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_last_step_that_destroys_the_model_is_undone():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    optimizer = torch.optim.SGD(model.parameters(), 1e200)
    with pytest.raises(LossNotFiniteError, match="again"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=1)
    assert all(bool(x.isfinite().all()) and float(x.detach().abs().max()) < 10 for x in model.parameters())


def test_the_last_layer_is_found_with_its_bias_too():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    last = [model.get_parameter(f"field.energy.4.{name}") for name in ("weight", "bias")]
    both = physics.solve_linear(model, spring_data(), last)
    assert both == physics.solve_linear(model, spring_data(), last[:1])


def with_rule(model: LearnedSystem) -> LearnedSystem:
    model.rule = physics.midpoint
    return model


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
        (lambda path, m: other_kind(path, m, torch.optim.SGD, spring_data(3)), "it is of another data: continue"),
        (lambda path, m: other_kind(path, m, torch.optim.SGD, backwards(spring_data())), "it is of another data"),
        (lambda path, m: other_kind(path, with_rule(m), torch.optim.SGD), "it is of another rule: continue"),
        (lambda path, m: path.write_bytes(b"PK"), r"no whole \.npz file of arrays"),
        (lambda path, m: spring_data().save(path), "optimizer: it holds entries, times, states"),
        (lambda path, m: np.savez(path, tree="[1, 2]", generator=np.ones(3)), "is no checkpoint of this model"),
    ],
    ids=[
        "a motion that stops",
        "Adam",
        "LBFGS",
        "another model",
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
