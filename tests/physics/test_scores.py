"""Scores of predictions, and what is not scored."""

import dataclasses
import math

import pytest
import torch
from known_laws import WIDE, Quadratic, spring_data, true_spring
from torch import Tensor, nn

from eom import physics
from eom.errors import (
    DataError,
    StepError,
)
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.systems import rotate


def test_a_prediction_that_runs_away_says_at_which_step():
    model = LearnedSystem(1, physics.PlainField(nn.Identity()), physics.midpoint, physics.RK4())
    model.field = _Square()
    with pytest.raises(StepError, match=r"stopped at step \d+ of 20: the motion has left the finite numbers"):
        model.predict(torch.ones(1, 1, dtype=WIDE), torch.arange(21.0))


def test_a_prediction_has_the_names_that_it_is_given():
    data = spring_data()
    assert true_spring(physics.midpoint).predict(data.states[:, 0], data.times, entries=data.entries).entries == (
        "q",
        "p",
    )


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


def test_one_trajectory_of_a_conserved_energy_has_no_spread_to_measure_drift_by():
    drawn, model = data_sets.springs(noise=0.0), true_spring(physics.midpoint)
    assert math.isnan(physics.evaluate(model, physics.spring(), drawn.exact(1, seed=0)).drift)
    assert physics.evaluate(model, physics.spring(), drawn.exact(2, seed=0)).drift < 1e-5


@pytest.mark.parametrize("system", [physics.spring(), physics.pendulum(0.1)], ids=["keeps", "dissipates"])
def test_a_rest_that_is_kept_has_no_drift_and_is_foretold_to_the_end(system):
    test = Trajectories(torch.arange(5, dtype=WIDE), torch.zeros(2, 5, 2, dtype=WIDE))
    model = LearnedSystem(2, physics.EnergyField(Quadratic(), system.structure), physics.midpoint, physics.RK4())
    scores = physics.evaluate(model, system, test)
    assert (scores.state, scores.drift, scores.horizon) == (0, 0, 4)
    moved = Trajectories(test.times, test.states + 1e-3 * test.times[..., None])
    scores = physics.evaluate(model, system, test, predicted=moved)
    assert (scores.drift, scores.horizon) == (math.inf, 1)


@pytest.mark.parametrize("constant", [0.0, 1e6])
def test_rising_energies_are_told_whatever_is_added_to_them(constant):
    """A prediction that runs backwards in time."""
    damped = physics.spring(0.05)
    u = torch.tensor([[1.0, 0.5], [0.4, 0.2]], dtype=WIDE)
    states = damped.simulate(u, h=0.1, steps=100).transpose(0, 1)
    test = Trajectories(0.1 * torch.arange(101, dtype=WIDE), states)
    back = Trajectories(test.times, test.states.flip(1))
    system = dataclasses.replace(damped, energy=lambda u: damped.energy(u) + constant)
    model = physics.energy_model(2).double()
    assert physics.evaluate(model, system, test, predicted=back).rising > 0.99
    assert physics.evaluate(model, system, test, predicted=test).rising == 0


def test_a_prediction_that_runs_away_has_no_error_that_is_small():
    """Infinite states, of which differences are no numbers."""
    drawn = data_sets.separations(24, steps=3)
    test = drawn.draw(1, seed=0)
    gone = Trajectories(test.times, test.states)
    object.__setattr__(gone, "states", torch.full_like(test.states, math.inf))
    model = physics.energy_model(drawn.system.size, physics.GridEnergy((drawn.system.size,), 4), drawn.system.structure)
    scores = physics.evaluate(model, drawn.system, test, predicted=gone)
    assert scores[1:6] == (math.inf,) * 3 + (math.inf, 1.0)


def test_predictions_and_scores_draw_nothing_and_leave_modules_as_they_were():
    net = nn.Sequential(nn.Linear(2, 30), nn.Dropout(0.5), nn.Linear(30, 2))
    model, data = physics.LearnedSystem(2, physics.PlainField(net), physics.midpoint, physics.RK4()), spring_data()
    net[0].eval()
    modes = [m.training for m in model.modules()]
    first, again = (physics.evaluate(model.double(), physics.spring(), data) for _ in range(2))
    assert first[:3] == again[:3]
    assert [m.training for m in model.modules()] == modes


class _Explosive(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1e3))

    def forward(self, u: Tensor) -> Tensor:
        return self.scale * u**3


def test_scores_against_an_energy_that_is_no_number_for_each_state_are_refused():
    wrong = physics.System("spring", lambda u: u**2, rotate, ("q", "p"))
    with pytest.raises(DataError, match=r"energy of states \[180, 2\] is \[180, 2\], expected \[180\]"):
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


def test_a_system_of_batches_alone_has_the_rates_and_scores_of_any():
    """Entries on the second axis: of trajectories [b, s, n] that would be their times."""
    own = physics.System(
        "own spring", lambda u: u[:, 0] ** 2 + u[:, 1] ** 2, lambda g: torch.cat([g[:, 1:], -g[:, :1]], 1), ("q", "p"),
        {"twice": lambda u: 2 * u[:, 1:].square() + 2 * u[:, :1].square()},
    )  # fmt: skip
    usual = dataclasses.replace(physics.spring(), solution=None, conserved={"twice": lambda u: 2 * u.square().sum(-1)})
    one, other = (dataclasses.replace(data_sets.springs(), system=system).exact(4, 1) for system in (own, usual))
    torch.testing.assert_close(one.states, other.states, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.slopes, other.slopes, rtol=1e-9, atol=1e-12)
    model = true_spring(physics.midpoint, Quadratic(start=1.1))
    predicted = model.predict(one.states[:, 0], one.times)
    scores = (physics.evaluate(model, system, one, predicted=predicted) for system in (own, usual))
    assert tuple(next(scores)) == pytest.approx(tuple(next(scores)), rel=1e-9, nan_ok=True)


def test_what_is_conserved_is_a_number_for_each_state():
    system = dataclasses.replace(physics.spring(), conserved={"both": lambda u: u})
    with pytest.raises(DataError, match=r"both of states \[120, 2\] is \[120, 2\], expected \[120\]"):
        physics.evaluate(true_spring(physics.midpoint), system, data_sets.springs().exact(4, 0))


def test_columns_in_another_order_are_refused():
    data = spring_data()
    turned = Trajectories(data.times, data.states.flip(-1), ("p", "q"))
    with pytest.raises(DataError, match="test states are p, q, those of spring q, p: bring the columns into its order"):
        physics.evaluate(true_spring(physics.midpoint), physics.spring(), turned)
