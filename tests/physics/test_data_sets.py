"""Data sets: seeded, noisy as stated, on the motion, and as they are shipped."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eom import physics
from eom.dynamics.integrate import course, flow
from eom.errors import DataError, EomError
from eom.physics import DataSet, Trajectories, data_sets, read_csv
from eom.physics.data_sets import motion
from eom.physics.systems import pendulum, spring

SETS: dict[str, DataSet] = {
    "springs": data_sets.springs(),
    "pendulums": data_sets.pendulums(1.0, 5),
    "damped springs": data_sets.damped_springs(),
    "double pendulums": data_sets.double_pendulums(0.5, 5),
    "two bodies": data_sets.two_bodies(2.0, 5),
    "three bodies": data_sets.three_bodies(1.0, 5),
    "chains": data_sets.chains(),
    "solitons": data_sets.solitons(steps=5),
    "separations": data_sets.separations(24, steps=5),
}


@pytest.mark.parametrize("name", SETS)
def test_data_are_the_same_for_the_same_seed_and_keep_the_energy(name):
    drawn = SETS[name]
    data = drawn.draw(3, seed=1)
    assert torch.equal(data.states, drawn.draw(3, seed=1).states)
    assert not torch.equal(data.states, drawn.draw(3, seed=2).states)
    energies = drawn.system.energy(drawn.exact(3, seed=1).states)
    if drawn.system.dissipates:
        assert bool((energies.diff(dim=1) < 0).all())
    else:
        torch.testing.assert_close(energies[:, -1], energies[:, 0], rtol=1e-8, atol=1e-10)


def test_noise_has_the_stated_size_and_rates_are_free_of_it():
    drawn = data_sets.springs()
    data, exact = drawn.draw(50, seed=0), drawn.exact(50, seed=0)
    off = (data.states - exact.states).flatten()
    assert float(off.std()) == pytest.approx(0.1, rel=4 / np.sqrt(2 * len(off)))
    assert data.slopes is not None
    assert exact.slopes is not None
    assert torch.equal(data.slopes, exact.slopes)


def test_rates_are_slopes_of_the_motion():
    drawn = data_sets.pendulums(1e-3, 3, noise=0.0)
    data = drawn.exact(4, seed=0)
    assert data.slopes is not None
    secant = (data.states[:, 2] - data.states[:, 0]) / 1e-3
    torch.testing.assert_close(
        data.slopes[:, 1], secant, rtol=0, atol=2.1e-6
    )  # h^2 / 6 times a third derivative below 50


def test_irregular_times_are_each_trajectorys_own_and_on_the_motion():
    drawn = data_sets.springs(noise=0.0)
    data = drawn.draw(2, seed=0, irregular=True)
    assert bool((data.times.diff(dim=1) > 0).all())
    assert not torch.equal(data.times[0], data.times[1])
    one = motion(drawn.system, data.states[1:, 0], data.times[1])
    torch.testing.assert_close(one, data.states[1:], rtol=0, atol=1e-12)


def test_data_by_the_systems_own_scheme_are_near_those_of_an_accurate_solver():
    drawn = data_sets.solitons(24, steps=10)
    off = drawn.draw(2, seed=0, by_scheme=True).states - drawn.draw(2, seed=0).states
    assert 1e-9 < float(off.abs().max()) < 1e-3


def test_motion_is_as_exact_among_members_at_rest_as_alone():
    """Of 400, whose mean square error is a twentieth of that of the only one that moves."""
    system = pendulum()
    one, times = torch.tensor([[1.5, 0.3]], dtype=torch.float64), torch.linspace(0, 4, 3, dtype=torch.float64)
    many = torch.cat([one, torch.zeros(399, 2, dtype=torch.float64)])
    exact = course(system.field, one, times.tolist(), 1e-13, 1e-15)[:, 0]
    alone, among = (float((motion(system, u, times)[0] - exact).abs().max()) for u in (one, many))
    assert among <= 2 * alone


@pytest.mark.parametrize(
    ("drawn", "seed"),
    [
        (dataclasses.replace(data_sets.pendulums(), times=0.1 * torch.arange(60)), 0),
        (dataclasses.replace(data_sets.pendulums(), times=0.12 * torch.arange(60)), 1),
        (data_sets.double_pendulums(), 0),
    ],
)
def test_motion_is_as_exact_at_all_of_many_even_times(drawn, seed):
    """A step of the solver's own may end at a time, by which it then knew no more of later ones: 1e-6 was lost."""
    states = drawn.exact(1, seed).states
    energies = drawn.system.energy(states)
    assert float((energies - energies[:, :1]).abs().max()) < 1e-9
    last = flow(drawn.system.field, states[:, 0], float(drawn.times[-1]), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(states[:, -1], last, rtol=0, atol=1e-8)


def test_irregular_times_lie_between_the_first_and_the_last():
    drawn = data_sets.springs(noise=0.0)
    later = dataclasses.replace(drawn, times=drawn.times + 5).draw(2, seed=0, irregular=True)
    torch.testing.assert_close(later.times - 5, drawn.draw(2, seed=0, irregular=True).times)


DATA = Path(__file__).parents[2] / "data"


def test_the_files_that_are_shipped_are_what_their_generator_makes():
    subprocess.run([sys.executable, DATA / "generate.py", "--check"], check=True)
    for name, drawn in {"springs": data_sets.springs(), "chains": data_sets.chains()}.items():
        file = Trajectories.load(DATA / f"{name}.npz")
        made = drawn.draw(len(file), seed=0)
        torch.testing.assert_close(file.states, made.states, rtol=1e-9, atol=1e-9)  # machines differ in the last digits


def test_the_table_of_the_stand_in_is_the_stand_in():
    table = read_csv(DATA / "stand-in-pendulum.csv", time="time", coordinates=["angle", "momentum"])
    file = Trajectories.load(DATA / "stand-in-pendulum.npz")
    torch.testing.assert_close(table.states, file.states, rtol=1e-8, atol=1e-9)


def test_a_data_set_is_shown_in_a_line():
    assert repr(data_sets.springs()) == "DataSet(spring, 30 points, times 0 to 3, noise 0.1)"


def test_exact_trajectories_are_at_times_of_ones_own():
    drawn = data_sets.springs()
    solution = drawn.system.solution
    assert solution is not None
    for times in ([0.0, 0.5, 2.0], [[0.0, 0.5, 2.0], [0.0, 1.0, 2.0]]):
        data = drawn.exact(2, 0, times)  # type: ignore[arg-type] - lists become tensors
        assert data.times.tolist() == torch.tensor(times).expand(2, 3).tolist()
        for one, at in zip(data.states, data.times, strict=True):
            torch.testing.assert_close(one, torch.stack([solution(t, one[0]) for t in at.tolist()]))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0], "1 points in time, expected two or more"),
        ([0.0, 2.0, 1.0], "repeat or fall at points 1 and 2"),
        ([[0.0, 1.0], [0.0, 2.0]], r"times have shape \[2, 2\], expected \[s\], which all trajectories share"),
        (None, "times are a NoneType, expected a tensor or an array of numbers"),
    ],
    ids=["one", "falling", "each its own", "none"],
)
def test_times_at_which_nothing_can_be_observed_are_refused(times, message):
    with pytest.raises(DataError, match=message):
        DataSet(spring(), data_sets.springs().starts, times)


def test_a_list_of_times_is_taken_as_a_tensor():
    springs, times = data_sets.springs(), [0.0, 0.1, 0.4]
    drawn = DataSet(springs.system, springs.starts, times)  # type: ignore[arg-type] - as a user may
    for irregular in (False, True):
        assert drawn.draw(2, seed=0, irregular=irregular).times[:, [0, -1]].tolist() == [[0.0, 0.4]] * 2
    exact = springs.exact(2, seed=0, times=times)  # type: ignore[arg-type] - as a user may
    assert torch.equal(exact.states, drawn.exact(2, seed=0).states)


def test_starts_in_other_floats_are_observed_in_double_precision():
    starts = data_sets.pendulums().starts

    def observed(dtype):
        drawn = DataSet(physics.pendulum(), lambda n, draws: starts(n, draws).to(dtype), torch.linspace(0, 3, 31))
        return drawn.exact(3, 0)

    single, double = observed(torch.float32), observed(torch.float64)
    assert single.states.dtype is single.slopes.dtype is torch.float64  # type: ignore[union-attr] - there are some
    torch.testing.assert_close(single.states, double.states, rtol=1e-5, atol=1e-5)
    energies = physics.pendulum().energy(single.states)
    torch.testing.assert_close(energies, energies[:, :1].expand_as(energies), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    "starts",
    [torch.zeros(3, 2), lambda n, draws: torch.zeros(n, 2).numpy(), lambda n, draws: torch.zeros(n, 3)],
    ids=["a tensor", "of numpy", "of another size"],
)
def test_starts_are_functions_that_draw_states(starts):
    with pytest.raises(EomError, match=r"starts (are|of 3 are) .*, expected a (function|tensor of floats \[3, 2\])"):
        DataSet(physics.pendulum(), starts, torch.linspace(0, 1, 5)).exact(3, 0)
