"""Learned systems: residuals that vanish on the true law, training that finds it, checkpoints, bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eom
from eom import physics
from eom.errors import (
    DataError,
    LossNotDifferentiableError,
    LossNotFiniteError,
    LossNotScalarError,
    SettingError,
    StepError,
)
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.checkpoint import copied, load
from eom.physics.rules import Rule
from eom.physics.systems import rotate

WIDE = torch.float64


class Quadratic(nn.Module):
    """sum_i c_i u_i^2: the spring's energy at c = 1."""

    def __init__(self, size: int = 2, start: float = 1.0):
        super().__init__()
        self.c = nn.Parameter(torch.full((size,), start, dtype=WIDE))

    def forward(self, u: Tensor) -> Tensor:
        return (self.c * u**2).sum(-1)


def spring_data(count: int = 4, noise: float = 0.0, points: int = 30) -> Trajectories:
    return data_sets.springs(noise=noise, points=points).draw(count, seed=0)


def true_spring(rule: Rule, energy: nn.Module | None = None) -> LearnedSystem:
    return LearnedSystem(2, physics.EnergyField(energy or Quadratic()), rule, physics.DiscreteGradient())


def newton(model: nn.Module) -> torch.optim.LBFGS:
    """Which goes on to rounding."""
    return torch.optim.LBFGS(
        model.parameters(), line_search_fn="strong_wolfe", tolerance_grad=1e-13, tolerance_change=1e-16
    )


def size_of(rule: Rule, h: float) -> float:
    """Of the residual on the true law, for data of step h."""
    data = data_sets.springs(span=4 * h, points=5, noise=0.0).draw(4, seed=0)
    return float(physics.mean_square(true_spring(rule), data.windows()).sqrt().detach())


@pytest.mark.parametrize(
    ("rule", "order"),
    [(physics.midpoint, 2), (physics.match_discrete_gradient, 2), (physics.Shooting(physics.RK4()), 4)],
    ids=["midpoint", "discrete gradient", "Runge-Kutta"],
)
def test_residuals_of_the_true_law_fall_with_the_order_of_the_rule(rule, order):
    slope = eom.testing.observed_order(lambda h: size_of(rule, h), [0.1, 0.05, 0.025])
    assert slope == pytest.approx(order, abs=0.05)


def test_rates_of_the_true_law_leave_nothing_and_a_wrong_sign_leaves_much():
    window = spring_data().windows()
    assert float(physics.mean_square(true_spring(physics.match_slopes), window).detach()) < 1e-28
    wrong = true_spring(physics.match_slopes, Quadratic(start=-1.0))
    assert float(physics.mean_square(wrong, window).detach()) > 1


def test_uneven_times_leave_residuals_as_small():
    data = data_sets.springs(span=0.4, points=5, noise=0.0).draw(20, seed=0, irregular=True)
    for rule in (physics.midpoint, physics.match_discrete_gradient, physics.Shooting(physics.RK4())):
        assert (
            float(physics.mean_square(true_spring(rule), data.windows()).sqrt()) < 0.2
        )  # (4 / 3) h^2 at h = .4, or less


def test_the_adaptive_step_is_the_flow_and_its_adjoint_has_the_same_gradient():
    data = spring_data()
    grads = []
    for adjoint in (False, True):
        rule = physics.Shooting(physics.Adaptive(1e-9, 1e-11, adjoint=adjoint))
        model = true_spring(rule, Quadratic(start=1.1))
        loss = physics.mean_square(model, data.windows())
        loss.backward()
        grads.append(next(model.parameters()).grad)
        assert float(physics.mean_square(true_spring(rule), data.windows()).detach()) < 1e-14
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=0)


def test_a_lagrangian_gives_newtons_equation():
    """L = v^2 / 2 + cos q, of which q'' = -sin q."""

    class Net(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return torch.cos(u[..., :1])

    u = torch.randn(5, 2, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    field = physics.LagrangianField(Net())
    torch.testing.assert_close(field(0.0, u), torch.stack([u[:, 1], -torch.sin(u[:, 0])], 1), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(field.energy(u), u[:, 1] ** 2 / 2 - torch.cos(u[:, 0]), rtol=1e-13, atol=1e-14)


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


def test_parameters_in_which_residuals_are_not_affine_are_refused():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    with pytest.raises(SettingError, match="not affine in these parameters: give those of the last layer"):
        physics.solve_linear(model, spring_data(), [model.get_parameter("field.energy.0.weight")])


def test_friction_is_learned():
    """A small step, as the learned one fits the step and not the flow."""
    data = data_sets.damped_springs(span=1.0, points=101, noise=0.0, friction=0.3).draw(5, seed=0)
    model = physics.damped_energy_model(2, Quadratic(start=0.9)).double()
    physics.fit(model, data, optimizer=newton(model), steps=3)
    strength = model.field.get_submodule("structure").strength.detach()  # type: ignore[operator, union-attr]
    assert float(strength) == pytest.approx(0.3, rel=1e-3)
    assert physics.evaluate(model, physics.spring(0.3), data).rising == 0


def distance(model: LearnedSystem, data: Trajectories, wanted: float, window: int = 1) -> float:
    """Of the fitted c from the wanted one."""
    physics.fit(model, data, optimizer=newton(model), steps=2, window=window, stride=window)
    return float((model.field.energy.c.detach() - wanted).abs().max())  # type: ignore[union-attr]


def test_fitted_states_undo_the_bias_of_noise():
    """A fit of one step to noisy states is off by the noise's share, as a regression with errors in its variables.

    Without noise the discrete gradient would find tan(h) / h, and shots of Runge-Kutta 1.
    """
    data = data_sets.springs(span=8.0, points=41, noise=0.1).draw(20, seed=0)
    plain = true_spring(physics.match_discrete_gradient, Quadratic(start=0.9))
    assert distance(plain, data, math.tan(0.2) / 0.2) > 0.02  # noise of variance .01 on states of .2
    states = true_spring(
        physics.ErrorsInVariables(physics.match_discrete_gradient, data, window=40, stride=40), Quadratic(start=0.9)
    )
    assert distance(states, data, math.tan(0.2) / 0.2, 40) < 0.01
    starts = true_spring(physics.FromFittedStarts(data, physics.RK4(), window=10, stride=10), Quadratic(start=0.9))
    assert distance(starts, data, 1.0, 10) < 0.01


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


class Paired(nn.Module):
    """No energy of each sample: it sees the batch's mean."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, u: Tensor) -> Tensor:
        return self.net(u)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.energy_model(4), r"states have 2 entries, the model 4: give it all coordinates"),
        (
            lambda: physics.energy_model(2, physics.dense(2, 3)),
            r"energy of states \[2, 2\] is \[2, 3\], expected \[2\]: a number for each state",
        ),
        (lambda: physics.energy_model(2, Paired()), "must not see each other, as in BatchNorm"),
    ],
    ids=["q without p", "not scalar", "batch norm"],
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
    ],
    ids=["steps", "window", "batch", "patience"],
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


def test_a_loss_that_is_not_finite_leaves_the_best_parameters():
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    before = [x.detach().clone() for x in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 1e200)
    with pytest.raises(LossNotFiniteError, match=r"has its parameters of step 0 again\. Take a smaller learning rate"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=50)
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_prediction_that_runs_away_says_at_which_step():
    model = LearnedSystem(1, physics.PlainField(nn.Identity()), physics.midpoint, physics.RK4())
    model.field = _Square()
    with pytest.raises(StepError, match=r"stopped at step \d+ of 20: the motion has left the finite numbers"):
        model.predict(torch.ones(1, 1, dtype=WIDE), torch.arange(21.0))


class _Square(nn.Module):
    def forward(self, t: float, u: Tensor) -> Tensor:
        return u**2


def test_scores_are_the_known_errors_of_a_model_that_is_known():
    """H = 1.1 (q^2 + p^2) predicted exactly: rates off by a tenth, true energy right, phase running ahead by .2 t."""
    data = data_sets.springs(noise=0.0).exact(6, seed=0)
    model = true_spring(physics.midpoint, Quadratic(start=1.1))
    model.stepper = physics.Adaptive(1e-10, 1e-12)
    scores = physics.evaluate(model, physics.spring(), data)
    square = data.states.square().sum(-1)
    assert scores.derivative == pytest.approx(0.01 * 4 * float(square.mean()) / 2, rel=1e-10)
    assert scores.energy < 1e-16
    assert scores.state == pytest.approx(float((square * (2 - 2 * torch.cos(0.2 * data.times))).mean()) / 2, rel=1e-7)
    assert scores.drift < 1e-7
    alone = physics.evaluate(model, None, data)
    assert (alone.state, alone.drift, alone.horizon) == (scores.state, scores.drift, scores.horizon)
    assert math.isnan(alone.energy)
    assert math.isnan(alone.derivative)


def test_a_prediction_that_stops_scores_infinite_errors():
    model = LearnedSystem(2, physics.PlainField(_Explosive()), physics.midpoint, physics.RK4()).double()
    scores = physics.evaluate(model, physics.spring(), data_sets.springs().exact(2, seed=0))
    assert math.isinf(scores.state)
    assert math.isinf(scores.energy)
    assert scores.horizon < 3


class _Explosive(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1e3))

    def forward(self, u: Tensor) -> Tensor:
        return self.scale * u**3


@pytest.mark.parametrize(
    "stepper",
    [physics.Gauss(1), physics.Gauss(2), physics.DiscreteGradient(), physics.RK4()],
    ids=["midpoint", "Gauss", "discrete gradient", "Runge-Kutta"],
)
def test_members_with_times_of_their_own_move_as_they_do_alone(stepper):
    data = data_sets.springs(noise=0.0, points=8).draw(2, seed=0, irregular=True)
    model = true_spring(physics.midpoint)
    model.stepper = stepper
    both = model.predict(data.states[:, 0], data.times).states
    for i in range(2):
        alone = model.predict(data.states[i : i + 1, 0], data.times[i]).states
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-11, atol=1e-12)


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


def test_a_last_step_that_destroys_the_model_is_undone():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    optimizer = torch.optim.SGD(model.parameters(), 1e200)
    with pytest.raises(LossNotFiniteError, match="again"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=1)
    assert all(bool(x.isfinite().all()) and float(x.detach().abs().max()) < 10 for x in model.parameters())


@pytest.mark.parametrize(
    "make",
    [physics.energy_model, physics.damped_energy_model, physics.hamiltonian_network, physics.symplectic_network],
    ids=["energy", "damped", "Hamiltonian", "separable"],
)
def test_positions_without_as_many_momenta_are_refused(make):
    with pytest.raises(SettingError, match="size is 3, expected positions and as many velocities or momenta"):
        make(3)


def test_the_last_layer_with_its_bias_and_parameters_kept_where_refused():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    last = [model.get_parameter(f"field.energy.4.{name}") for name in ("weight", "bias")]
    assert math.isfinite(physics.solve_linear(model, spring_data(), last))
    first = model.get_parameter("field.energy.0.weight")
    before = first.detach().clone()
    with pytest.raises(SettingError, match="not affine"):
        physics.solve_linear(model, spring_data(), [first])
    assert torch.equal(first, before)


def test_scores_against_an_energy_that_is_no_number_for_each_state_are_refused():
    wrong = physics.System("spring", lambda u: u**2, rotate, ("q", "p"))
    with pytest.raises(DataError, match=r"energy of states \[6, 30, 2\] is \[6, 30, 2\], expected \[6, 30\]"):
        physics.evaluate(true_spring(physics.midpoint), wrong, data_sets.springs().exact(6, seed=0))


@pytest.mark.parametrize(
    "other",
    [lambda v: v.select([0]), lambda v: v.until(1.0)[0], lambda v: Trajectories(v.times + 1, v.states)],
    ids=["fewer", "shorter", "later"],
)
def test_predictions_of_something_else_are_not_scored(other):
    data, model = spring_data(), true_spring(physics.midpoint)
    predicted = model.predict(data.states[:, 0], data.times)
    assert physics.evaluate(model, None, data, predicted=predicted) == physics.evaluate(model, None, data)
    with pytest.raises(DataError, match=r"predicted are states .* to time .*, and test are .*: predict at all times"):
        physics.evaluate(model, None, data, predicted=other(predicted))


class Columns(nn.Module):
    """The first few entries of u, and zeros."""

    def __init__(self, count: int):
        super().__init__()
        self.count, self.scale = count, nn.Parameter(torch.ones((), dtype=WIDE))

    def forward(self, u: Tensor) -> Tensor:
        return self.scale * nn.functional.pad(u, (0, self.count - u.shape[-1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.neural_ode(2, Columns(1)), r"maps states \[2, 2\] to \[2, 1\], expected a rate of each entry"),
        (lambda: physics.second_order_ode(2, Columns(2)), r"maps states \[2, 2\] to \[2, 3\]"),
        (lambda: physics.symplectic_network(2, lambda a, b: Columns(3)), r"energy of states \[2, 1\] is \[2, 3\]"),
        (lambda: physics.lagrangian_network(2, Columns(2)), r"energy of states \[2, 2\] is \[2, 2\]"),
        (lambda: physics.neural_ode(2, nn.Linear(3, 2)), r"does not take states \[2, 2\]: .*cannot be multiplied"),
        (lambda: physics.energy_model(2, physics.GridEnergy((1,))), "maps|does not take|energy of states"),
    ],
    ids=["one rate", "two forces", "kinetic energies", "Lagrangians", "wider states", "another grid"],
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
            r"states are a list, expected a tensor \[\.\.\., 2\]",
        ),
        (lambda m, d: m.predict(d.states[0, 0], d.times), DataError, r"u has shape \[2\], expected \[b, 2\]"),
        (lambda m, d: physics.fit(m, d, loss=lambda w: 1.0), LossNotScalarError, "the loss is a float"),  # type: ignore[arg-type]
        (lambda m, d: physics.fit(m, d, loss=m.residual), LossNotScalarError, r"the loss is of shape \[116, 1, 2\]"),
        (
            lambda m, d: physics.fit(m, d, loss=lambda w: physics.mean_square(m, w).detach()),
            LossNotDifferentiableError,
            r"the loss has no gradient in the model's parameters: compute it without detach\(\)",
        ),
    ],
    ids=["array", "test", "validation", "field", "field, linear", "start", "flat start", "float", "vector", "detached"],
)
def test_what_is_no_model_no_data_or_no_loss_is_named(act, kind, message):
    with pytest.raises(kind, match=message):
        act(true_spring(physics.midpoint), spring_data())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.energy_model(1), "size is 1, expected positions and as many"),
        (lambda: physics.symplectic_network(1), "inputs, outputs, width are 0, 1, 100; expected whole numbers"),
        (lambda: physics.second_order_ode(1), "are 1, 0, 100; .* two entries or more"),
        (lambda: physics.neural_ode(0, nn.Identity()), "size is 0, expected a whole number of entries"),
        (lambda: physics.energy_model(64, physics.GridEnergy((50,))), r"a multiple of .* the energy's grid \(50,\)"),
        (lambda: physics.energy_model(2, None, lambda g: g), "neither skew nor negative semidefinite: .* another sign"),
        (lambda: physics.energy_model(2, None, lambda g: g[:, :1]), r"maps \[2, 2\] to \[2, 1\]"),
    ],
    ids=["one entry", "half of one", "no force", "nothing", "grid", "rising", "narrow"],
)
def test_models_that_make_no_sense_are_not_built(make, message):
    with pytest.raises(SettingError, match=message):
        make()


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


def other_kind(path, model, kind) -> None:
    physics.fit(model, spring_data(), steps=2, optimizer=kind(model.parameters(), 1e-3), checkpoint=path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, m: other_kind(path, m, torch.optim.Adam), "written with Adam, and the optimizer is SGD"),
        (lambda path, m: other_kind(path, m, torch.optim.LBFGS), "written with LBFGS, and the optimizer is SGD"),
        (lambda path, m: other_kind(path, physics.energy_model(2, Quadratic()), torch.optim.SGD), "no checkpoint of"),
        (lambda path, m: path.write_bytes(b"PK"), r"no whole \.npz file of arrays"),
        (lambda path, m: spring_data().save(path), "is no checkpoint of this model and optimizer"),
        (lambda path, m: np.savez(path, tree="[1, 2]", generator=np.ones(3)), "is no checkpoint of this model"),
    ],
    ids=["Adam", "LBFGS", "another model", "cut off", "trajectories", "another tree"],
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
        load(tmp_path / "a.npz", model, optimizer, draw)
    torch.testing.assert_close(stand(), before, rtol=0, atol=0)
