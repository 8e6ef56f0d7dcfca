"""Training finds the law, goes on from its checkpoints, and leaves the best parameters."""

import math

import numpy as np
import pytest
import torch
from known_laws import WIDE, Quadratic, in_velocities, newton, shot, spring_data
from torch import Tensor, nn

import eom
from eom import physics
from eom.errors import DataError, DiscreteError, LossNotFiniteError, StepError
from eom.physics import LearnedSystem, data_sets
from eom.physics.checkpoint import copied

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
    data = in_velocities(spring_data()) if name == "Lagrangian" else spring_data()
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


def test_friction_is_learned():
    """A small step, as the learned one fits the step and not the flow."""
    data = data_sets.damped_springs(span=1.0, points=101, noise=0.0, friction=0.3).draw(5, seed=0)
    model = physics.damped_energy_model(2, Quadratic(start=0.9)).double()
    physics.fit(model, data, optimizer=newton(model), steps=3)
    strength = model.field.get_submodule("structure").strength.detach()  # type: ignore[operator, union-attr]
    assert float(strength) == pytest.approx(0.3, rel=1e-3)
    assert physics.evaluate(model, physics.spring(0.3), data).rising == 0


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
    with pytest.raises(LossNotFiniteError, match=r"has its parameters of step 0 again: take a smaller learning rate"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=50)
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_progress_is_shown_where_it_is_wanted(capsys):
    for wanted in (False, True):
        physics.fit(physics.neural_ode(2).double(), spring_data(), steps=1, progress=wanted)
        assert ("loss" in capsys.readouterr().out) is wanted


class Seventh(nn.Module):
    """sum net(u)^7."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, u: Tensor) -> Tensor:
        return (self.net(u) ** 7).sum(-1)


class Rooted(nn.Module):
    """(1 + |k|) net(u), with a derivative by k = 0 that is none."""

    def __init__(self):
        super().__init__()
        self.net, self.k = nn.Linear(2, 2), nn.Parameter(torch.zeros(2))

    def forward(self, u: Tensor) -> Tensor:
        return (1 + torch.sqrt(self.k**2)) * self.net(u)


@pytest.mark.parametrize("adjoint", [False, True])
def test_parameters_that_become_nan_are_given_back_in_adaptive_steps_too(adjoint):
    model = physics.neural_ode(2, Rooted(), adjoint=adjoint).double()
    before = [x.detach().clone() for x in model.parameters()]
    with pytest.raises(StepError, match=r"not finite|finite numbers.* parameters of step 0 again"):
        physics.fit(model, spring_data(), steps=3)
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_validation_is_of_the_model_that_predicts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2))
    model = LearnedSystem(2, physics.PlainField(net), physics.midpoint, physics.RK4()).double()
    unseen = spring_data()
    fitted = physics.fit(model, spring_data(), steps=4, every=2, validation=unseen)
    assert model.training
    found = float(physics.mean_square(model.eval(), unseen.windows()).detach())
    assert fitted.history.validation.min() == found


class Later(nn.Linear):
    """Draws random numbers once it has been trained a little."""

    def forward(self, input: Tensor) -> Tensor:
        found = super().forward(input)
        return found if self.calls_left() else found + torch.randn_like(found)

    left = 60

    def calls_left(self) -> bool:
        self.left -= 1
        return self.left > 0


def test_rates_that_are_drawn_later_on_leave_the_best_parameters():
    model = physics.neural_ode(2, Later(2, 2)).double()
    before = [x.detach().clone() for x in model.parameters()]
    with pytest.raises(DataError, match=r"^at step \d+, the rate .* random numbers.* parameters of step 0 again"):
        physics.fit(model, spring_data(), steps=np.int64(50), window=np.int64(1))  # type: ignore[arg-type] - as of a history
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(physics.neural_ode, StepError), (lambda size, net: physics.energy_model(size, Seventh(net)), DiscreteError)],
    ids=["adaptive steps", "discrete gradient"],
)
def test_a_step_that_fails_in_training_leaves_the_best_parameters(make, kind):
    torch.manual_seed(0)
    model = make(2, physics.dense(2, 2, 8)).double()
    before = [x.detach().clone() for x in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 1e45 if kind is DiscreteError else 1e6)
    with pytest.raises(kind, match=r"^at step \d, .* parameters of step 0 again: take a smaller learning rate"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=20)
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)


class Stiff(nn.Module):
    """-k u."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1000.0))

    def forward(self, u: Tensor) -> Tensor:
        return -self.k * u


def test_an_adjoint_equation_that_cannot_be_solved_is_told():
    times = torch.linspace(0, 5, 6)
    data = physics.Trajectories(times, torch.exp(-2 * times)[None, :, None] * torch.tensor([1.0, 0.5]))
    with pytest.raises(
        StepError, match=r"^at step 0, the adjoint equation was given up: .*steps.*; or take adjoint=False"
    ):
        physics.fit(physics.neural_ode(2, Stiff(), adjoint=True), data, steps=1)


def test_a_last_step_that_destroys_the_model_is_undone():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    optimizer = torch.optim.SGD(model.parameters(), 1e200)
    with pytest.raises(LossNotFiniteError, match="again"):
        physics.fit(model, spring_data(), optimizer=optimizer, steps=1)
    assert all(bool(x.isfinite().all()) and float(x.detach().abs().max()) < 10 for x in model.parameters())


def test_a_model_goes_back_to_a_plain_rule_and_its_field_is_loaded_by_another():
    data = data_sets.springs().draw(4, 0)
    model, other = physics.energy_model(2).double(), physics.energy_model(2).double()
    plain = model.rule
    model.rule = physics.ErrorsInVariables(plain, data, window=29, stride=29)
    assert "rule.states" in model.state_dict()
    model.rule = physics.midpoint
    assert model.rule is physics.midpoint
    assert "rule.states" not in model.state_dict()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(data.states[0]), model(data.states[0]))
