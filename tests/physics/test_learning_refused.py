"""What is no model, no data, no setting of a training is said at the door."""

import math
from typing import Any

import pytest
import torch
from known_laws import WIDE, in_velocities, spring_data, true_spring
from torch import Tensor, nn

from eom import physics
from eom.errors import (
    DataError,
    LossNotDifferentiableError,
    LossNotScalarError,
    SettingError,
    StepError,
)
from eom.physics import LearnedSystem, Trajectories


class Paired(nn.Module):
    """No function of each sample: it sees the batch's mean."""

    def __init__(self, outputs: int = 1, layer: nn.Module | None = None):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), layer or nn.BatchNorm1d(4), nn.Linear(4, outputs))

    def forward(self, u: Tensor) -> Tensor:
        return self.net(u)


class Whole(nn.Linear):
    """Rates that are whole numbers."""

    def __init__(self):
        super().__init__(2, 2)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).long()


def learned(rule: Any, stepper: Any = None, field: nn.Module | None = None) -> LearnedSystem:
    return LearnedSystem(2, field or physics.PlainField(nn.Linear(2, 2)), rule, stepper or physics.RK4()).double()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.energy_model(4), r"states have 2 entries, the model 4: give it all coordinates"),
        (
            lambda: physics.energy_model(2, physics.dense(2, 3)),
            r"energy of states \[2, 2\] is \[2, 3\], expected \[2\]: a number for each state",
        ),
        (lambda: physics.energy_model(2, Paired()), "the energy of .* must not see each other, as in BatchNorm"),
        (
            lambda: physics.neural_ode(2, Paired(2, nn.Dropout())),
            "the rate .* at first and .* random numbers, as in Drop",
        ),
        (lambda: learned(physics.midpoint, field=physics.PlainField(Paired(2))), "a rate .* as in BatchNorm"),
        (
            lambda: physics.energy_model(2, Paired(1, nn.Dropout())),
            r"is .* at first and .* then: .* random numbers, as in Dropout",
        ),
    ],
    ids=["q without p", "not scalar", "batch norm", "dropout of rates", "batch norm of rates", "dropout"],
)
def test_models_of_something_else_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        physics.fit(make().double(), spring_data(), steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0, expected 1 or more"),
        ({"window": 1.5}, "window is 1.5"),
        ({"batch": -1}, "batch is -1"),
        ({"patience": 3}, "patience is measured on validation"),
        ({"seed": 1.5}, r"seed is 1\.5, expected a whole number"),
        ({"loss": 3}, "loss is 3, expected a function of a window"),
        ({"checkpoint": 3}, "the checkpoint is to be 3, expected a file in a folder that is there"),
    ],
    ids=["steps", "window", "batch", "patience", "seed", "loss", "checkpoint"],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        physics.fit(physics.energy_model(2).double(), spring_data(), **settings)


def test_too_few_points_for_a_window_and_rates_not_observed_are_said():
    data = spring_data()
    with pytest.raises(DataError, match=r"30 points, too few for windows of 30 steps: observe longer"):
        physics.fit(physics.energy_model(2).double(), data, steps=1, window=30)
    bare = Trajectories(data.times, data.states)
    with pytest.raises(DataError, match="compares rates, and none were observed"):
        physics.fit(physics.hamiltonian_network(2).double(), bare, steps=1)


def test_a_grid_with_an_edge_is_refused_by_a_periodic_model():
    x = torch.linspace(0, 1, 20, dtype=WIDE)
    model = physics.energy_model(20, physics.GridEnergy((20,), 4)).double()
    slope = torch.stack([x, 1.1 * x])[None]
    for states, message in ((slope, "it is not periodic"), (torch.sin(2 * math.pi * slope), "that point comes once")):
        states = states.round(decimals=12) if "once" in message else states
        with pytest.raises(DataError, match=message):
            physics.fit(
                model, Trajectories(torch.tensor([0.0, 1.0]), states[:, [0, 0]] if "once" in message else states)
            )


def test_parameters_that_would_not_be_trained_are_named():
    model, other = (physics.energy_model(2, physics.dense(2, 1, 8)).double() for _ in range(2))
    data = spring_data()
    with pytest.raises(
        SettingError, match=r"does not have 6 parameters of the model, such as field\.energy\.0\.weight"
    ):
        physics.fit(model, data, optimizer=torch.optim.Adam(other.parameters()), steps=1)
    optimizer = torch.optim.Adam(model.parameters())
    model.rule = physics.ErrorsInVariables(model.rule, data, window=29, stride=29)
    with pytest.raises(SettingError, match=r"such as rule\.states: make it after the model and its rule"):
        physics.fit(model, data, optimizer=optimizer, steps=1, window=29, stride=29)


@pytest.mark.parametrize(
    "settings", [{"window": 5, "stride": 1}, {"window": 10, "stride": 10}], ids=["stride", "window"]
)
def test_fitted_states_of_other_windows_are_refused(settings):
    data = spring_data()
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    model.rule = physics.ErrorsInVariables(model.rule, data, window=5, stride=5)
    with pytest.raises(DataError, match=r"expected 5 as of the rule|windows of the data it was made for"):
        physics.fit(model, data, steps=1, **settings)


@pytest.mark.parametrize(
    "make",
    [physics.energy_model, physics.damped_energy_model, physics.hamiltonian_network, physics.symplectic_network],
    ids=["energy", "damped", "Hamiltonian", "separable"],
)
def test_positions_without_as_many_momenta_are_refused(make):
    with pytest.raises(SettingError, match="size is 3, expected positions and as many velocities or momenta"):
        make(3)


class Columns(nn.Module):
    """The first few entries of u, and zeros."""

    def __init__(self, count: int):
        super().__init__()
        self.count, self.scale = count, nn.Parameter(torch.ones((), dtype=WIDE))

    def forward(self, u: Tensor) -> Tensor:
        return self.scale * nn.functional.pad(u, (0, self.count - u.shape[-1]))


@pytest.mark.parametrize(
    ("measured", "given", "wanted"),
    [
        (torch.float32, torch.float32, WIDE),
        (torch.float32, WIDE, torch.float32),
        (WIDE, torch.bfloat16, torch.float32),
        (WIDE, WIDE, WIDE),
    ],
    ids=["wider model", "widened data", "narrow data", "all wide"],
)
def test_a_point_that_stands_twice_is_told_in_floats_of_data_and_of_model(measured, given, wanted):
    x, t = torch.linspace(0, 2 * math.pi, 33, dtype=measured), 0.1 * torch.arange(20, dtype=measured)
    data = Trajectories(t, torch.sin(x - t[:, None])[None].to(given))
    model = physics.energy_model(33, physics.GridEnergy((33,), 4), physics.SkewKernel((33,)))
    with pytest.raises(DataError, match="that point comes once"):
        physics.fit(model.to(wanted), data, steps=1)


@pytest.mark.parametrize("start", [[[1.0, 0.5], [1.0, 0.0], [1.0, 0.5]], [[1.0, 0.0]]], ids=["one of three", "first"])
def test_masses_that_are_singular_are_told(start):
    class Massless(nn.Module):  # L = k v^4 - q^2
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.ones(()))

        def forward(self, u: Tensor) -> Tensor:
            q, v = u.unbind(-1)
            return self.k * v**4 - q**2 - v**2 / 2

    with pytest.raises(StepError, match=r"masses d\^2L/dv\^2 are singular at one of the states"):
        physics.lagrangian_network(2, Massless()).predict(torch.tensor(start), torch.tensor([0.0, 0.1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.neural_ode(2, Columns(1)), r"maps \S+ \[2, 2\] to .*\[2, 1\], .* a rate of each entry"),
        (
            lambda: physics.neural_ode(2, nn.GRU(2, 2)),
            r"maps states \[2, 2\] to a tuple, expected a rate of each entry",
        ),
        (lambda: physics.second_order_ode(2, nn.GRU(2, 1)), r"does not take states \[2, 2\]: expected Tensor"),
        (lambda: physics.neural_ode(2, Whole()), r"to torch.int64 of shape \[2, 2\], .* a tensor of real numbers"),
        (lambda: physics.second_order_ode(2, Columns(2)), r"maps states \[2, 2\] to .*\[2, 3\]"),
        (lambda: physics.symplectic_network(2, lambda a, b: Columns(3)), r"energy of states \[2, 1\] is \[2, 3\]"),
        (lambda: physics.lagrangian_network(2, Columns(2)), r"energy of states \[2, 2\] is \[2, 2\]"),
        (lambda: physics.neural_ode(2, nn.Linear(3, 2)), r"does not take states \[2, 2\]: .*cannot be multiplied"),
    ],
    ids=[
        "one rate",
        "two results",
        "two results of a force",
        "whole numbers",
        "two forces",
        "kinetic energies",
        "Lagrangians",
        "wider states",
    ],
)
def test_networks_of_another_width_are_refused_in_training_and_prediction(make, message):
    model, data = make().double(), spring_data()
    for act in (lambda: physics.fit(model, data, steps=1), lambda: model.predict(data.states[:2, 0], data.times[0])):
        with pytest.raises(DataError, match=message):
            act()


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda m, d: physics.fit(m, d.states.numpy()), DataError, "the data are a ndarray, expected Trajectories"),
        (lambda m, d: physics.evaluate(m, None, d.states), DataError, "the data are a Tensor, expected Trajectories"),
        (lambda m, d: physics.fit(m, d, validation=d.states), DataError, "the data are a Tensor, expected Traj"),
        (lambda m, d: physics.fit(m.field, d), SettingError, "the model is a EnergyField, expected a LearnedSystem"),
        (lambda m, d: physics.solve_linear(m.field, d, []), SettingError, "expected a LearnedSystem"),
        (
            lambda m, d: m.predict([[1.0, 0.0]], d.times),
            DataError,
            r"states are a list, expected a dense tensor \[\.\.\., 2\]",
        ),
        (lambda m, d: m.predict(d.states[:, 0] > 0, d.times), DataError, r"are torch.bool of .* of real numbers"),
        (lambda m, d: m.predict(d.states[:, 0] + 1j, d.times), DataError, r"are torch.complex128 of .* real numbers"),
        (lambda m, d: physics.evaluate(m, "pendulum", d), SettingError, r"system is a str, .* such as pendulum\(\)"),  # type: ignore[arg-type]
        (
            lambda m, d: physics.evaluate(m, None, d, predicted=d.states),
            DataError,
            "predicted is a Tensor, expected Trajectories, as of model.predict",
        ),
        (lambda m, d: m.predict(d.states[0, 0], d.times), DataError, r"u has shape \[2\], expected \[b, 2\]"),
        (lambda m, d: m.predict(d.states[:0, 0], d.times), DataError, r"float64 of shape \[0, 2\], expected"),
        (lambda m, d: m.predict(d.states[:, 0] / 0, d.times), DataError, "u holds NaN or infinity in 8 of its 8"),
        (lambda m, d: m.predict(d.states[:, 0], d.times[:3]), DataError, r"times have shape \[3, 30\], expected"),
        (lambda m, d: m.predict(d.states[:, 0], 1.0), DataError, r"times have shape \[\], expected \[s\] or \[4, s\]"),
        (lambda m, d: m.predict(d.states[:, 0], None), DataError, "times are a NoneType"),
        (lambda m, d: m.predict(d.states[:, 0], [0.0, math.nan]), DataError, "among the times are not finite"),
        (lambda m, d: physics.fit(m, d, loss=lambda w: 1.0), LossNotScalarError, "the loss is a float"),  # type: ignore[arg-type]
        (lambda m, d: physics.fit(m, d, loss=m.residual), LossNotScalarError, r"torch.float64 of shape \[116, 1, 2\]"),
        (
            lambda m, d: physics.fit(m, d, loss=lambda w: physics.mean_square(m, w).detach()),
            LossNotDifferentiableError,
            r"the loss has no gradient in the model's parameters: compute it without detach\(\)",
        ),
    ],
    ids=[
        "array", "test", "validation", "field", "field, linear", "start", "truths", "complex", "no system",
        "states for trajectories", "flat start", "no start",
        "start of no number", "times of others", "one time", "no times", "time of no number", "float", "vector",
        "detached",
    ],
)  # fmt: skip
def test_what_is_no_model_no_data_or_no_loss_is_named(act, kind, message):
    with pytest.raises(kind, match=message):
        act(true_spring(physics.midpoint), spring_data())


@pytest.mark.parametrize("make", [physics.energy_model, physics.lagrangian_network, physics.neural_ode])
def test_inference_mode_is_named_where_derivatives_are_needed_and_only_there(make):
    model, data = make(2).double(), spring_data()
    acts = [
        lambda: physics.fit(model, data, steps=1),
        lambda: physics.spring().simulate(data.states[0, 0], h=0.1, steps=1),
    ]
    if make is not physics.neural_ode:
        acts.append(lambda: model.predict(data.states[:, 0], data.times))
    with torch.inference_mode():
        for act in acts:
            with pytest.raises(SettingError, match=r"torch\.inference_mode\(\) is on, and derivatives are needed"):
                act()
        physics.neural_ode(2).double().predict(data.states[:, 0], data.times)


@pytest.mark.parametrize(
    "field",
    [physics.PlainField(physics.dense(2, 2, 4)), physics.LagrangianField(physics.dense(2, 1, 4))],
    ids=["plain", "Lagrangian"],
)
def test_what_discrete_gradients_are_not_taken_of_is_told_what_to_take(field):
    data = in_velocities(spring_data())
    model = learned(physics.match_discrete_gradient, physics.DiscreteGradient(), field)
    with pytest.raises(SettingError, match=r"has no energy and structure: take EnergyField\(energy, structure\)"):
        physics.fit(model, data, steps=1)
    with pytest.raises(SettingError, match=r"for others take Gauss\(2\) or RK4\(\)"):
        model.predict(data.states[:, 0], data.times)


@pytest.mark.parametrize(
    "model",
    [physics.neural_ode(2, nn.Identity()), physics.energy_model(2).requires_grad_(False)],
    ids=["none", "frozen"],
)
def test_a_model_without_parameters_to_learn_is_not_fitted(model):
    with pytest.raises(SettingError, match="no parameters that require gradients, and there is nothing to learn"):
        physics.fit(model, spring_data(), steps=1)


class Summed(nn.Module):
    """Of which each state sees those before it."""

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return u.cumsum(0)


@pytest.mark.parametrize(
    "model",
    [physics.neural_ode(2, Summed()), physics.hamiltonian_network(2, nn.Sequential(Summed(), nn.Linear(2, 1)))],
    ids=["rate", "energy"],
)
def test_states_that_see_those_before_them_are_not_predicted(model):
    with pytest.raises(DataError, match="samples must not see each other"):
        model.predict(torch.tensor([[1.0, 0.0], [0.5, 0.2]]), torch.arange(3.0))


def test_a_structure_that_is_learned_freely_is_no_promise():
    assert physics.energy_model(4, None, physics.FreeMatrix(4)).size == 4


def test_parameters_that_are_not_numbers_are_named():
    model, data = physics.energy_model(2, physics.dense(2, 1, 8)).double(), spring_data()
    nn.init.constant_(model.get_parameter("field.energy.0.bias"), math.nan)
    for act in (lambda: physics.fit(model, data), lambda: model.predict(data.states[:, 0], data.times)):
        with pytest.raises(SettingError, match=r"1 parameters .* NaN or infinity, such as field\.energy\.0\.bias"):
            act()


RAMP = Trajectories(torch.arange(2.0), torch.arange(20, dtype=WIDE).expand(1, 2, 20))


@pytest.mark.parametrize(
    "act",
    [
        lambda m, d: physics.fit(m, d, validation=RAMP, steps=1),
        lambda m, d: m.predict(RAMP.states[:, 0], RAMP.times),
        lambda m, d: physics.evaluate(m, None, RAMP),
    ],
    ids=["validation", "prediction", "test"],
)
def test_a_grid_with_an_edge_is_refused_wherever_states_are_given(act):
    x = torch.arange(20, dtype=WIDE) / 20
    wave = torch.stack([torch.sin(2 * math.pi * (x - t)) for t in (0.0, 0.1)])[None]
    model = physics.energy_model(20, physics.GridEnergy((20,), 4), physics.SkewKernel((20,))).double()
    with pytest.raises(DataError, match=r"jump by 19 from the last to the first .* by 1 at most .* not periodic"):
        act(model, Trajectories(torch.arange(2.0), wave))


def test_validation_too_short_for_a_window_is_named():
    data = spring_data()
    with pytest.raises(DataError, match="trajectories for validation have 3 points, too few for windows of 5 steps"):
        physics.fit(physics.energy_model(2), data, validation=data.until(0.3)[0], window=5, steps=1)


@pytest.mark.parametrize(
    "rule",
    [
        lambda data: physics.ErrorsInVariables(physics.midpoint, data, window=2, stride=2),
        lambda data: physics.FromFittedStarts(data, physics.RK4(), window=2, stride=2),
    ],
    ids=["errors in variables", "fitted starts"],
)
def test_rules_of_data_that_are_no_trajectories_are_refused(rule):
    with pytest.raises(DataError, match="the data are a Tensor, expected the Trajectories that fit is given"):
        rule(torch.zeros(2, 5, 2))


def test_states_that_see_each_other_a_little_are_refused():
    """A coupling of 1e-4 of the energy, as a network could learn it."""

    class Coupled(nn.Module):
        def forward(self, u):
            return u.square().sum(-1) * (1 + 1e-4 * u.mean())

    model = physics.hamiltonian_network(2, Coupled(), rule=physics.midpoint)
    with pytest.raises(DataError, match="samples must not see each other"):
        model.predict(torch.randn(4, 2), torch.linspace(0, 1, 5))


def test_momenta_are_no_velocities():
    """Of the spring q' = 2 p; of (q, 2 p) a Lagrangian is learned."""
    data = spring_data()
    model = physics.lagrangian_network(2).double()
    with pytest.raises(DataError, match=r"entry 0 changes 2 times as fast as entry 1 .* give states \(q, dq/dt\)"):
        physics.fit(model, data, steps=1)
    noise = torch.tensor([0.0, 10.0]) * torch.randn(data.states.shape)
    physics.fit(model, Trajectories(data.times, data.states + noise), steps=1)  # which tells nothing
    fitted = physics.fit(model, in_velocities(data), steps=1)
    assert len(fitted.history) == 2
