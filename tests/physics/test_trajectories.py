"""Observations: what is taken, what is refused and how it is said, files."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from eom import physics
from eom.errors import DataError, SettingError
from eom.physics import DataSet, Trajectories, data_sets
from eom.physics.systems import rotate, spring

WIDE = torch.float64


def ramp(b: int = 2, s: int = 5, n: int = 2) -> Trajectories:
    states = torch.arange(b * s * n, dtype=WIDE).view(b, s, n)
    return Trajectories(torch.arange(s, dtype=WIDE), states, slopes=-states)


def test_windows_are_all_stretches_in_order():
    data = ramp()
    window = data.windows(2)
    assert window.u.shape == (6, 3, 2)
    assert window.t[1].tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(window.u[4], data.states[1, 1:4])
    assert window.slope is not None
    assert torch.equal(window.slope, -window.u)
    assert data.windows(2, stride=2).u.shape == (4, 3, 2)
    assert torch.equal(data.windows(2, stride=2).u[3], data.states[1, 2:5])


def test_a_file_gives_back_what_was_saved(tmp_path):
    data = ramp()
    data.save(tmp_path / "a.npz")
    same = Trajectories.load(tmp_path / "a.npz")
    assert same.slopes is not None
    assert same.entries == data.entries
    assert torch.equal(same.times, data.times)
    assert torch.equal(same.states, data.states)
    assert torch.equal(same.slopes, -data.states)
    for name in ("a.csv", "a", "nowhere/a.npz"):
        with pytest.raises(SettingError, match=r"expected a name that ends in \.npz"):
            data.save(tmp_path / name)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("no archive"), "is no whole .npz file of arrays"),
        (lambda path: path.write_bytes(b""), "is no whole .npz file of arrays"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "is no whole .npz file of arrays"),
        (lambda path: np.save(path.open("wb"), np.ones(3)), "is no whole .npz file of arrays"),
        (lambda path: np.savez(path, weights=np.ones(3)), "holds weights, and no trajectories"),
        (
            lambda path: np.savez(path, times=1, states=2, entries=3, more=4),
            "holds times, states, entries, more, and no",
        ),
        (lambda path: np.savez(path, times=["a"], states=[1], entries=["u"]), "times are a ndarray of <U1, expected a"),
        (lambda path: np.savez(path, times=[0.0], states=[1.0], entries="u"), r"states have shape \[1\]"),
    ],
    ids=["text", "nothing", "cut off", "one array", "other arrays", "more arrays", "words", "flat"],
)
def test_files_of_something_else_are_refused(tmp_path, write, message):
    path = tmp_path / "a.npz"
    ramp().save(path)
    write(path)
    with pytest.raises(DataError, match=message):
        Trajectories.load(path)


@pytest.mark.parametrize(
    ("times", "states", "message"),
    [
        (
            [0.0, 1.0, 1.0],
            torch.zeros(1, 3, 2),
            r"trajectory 0 repeat or fall at points 1 and 2: 1, then 1\. Sort them",
        ),
        ([0.0, 2.0, 1.0], torch.zeros(1, 3, 2), "repeat or fall at points 1 and 2: 2, then 1"),
        ([0.0, torch.nan, 1.0], torch.zeros(1, 3, 2), "1 numbers among the times are not finite"),
        ([0.0, 1.0], torch.tensor([[[0.0, 1], [torch.nan, 2]]]), "the first of u0 in trajectory 0 at point 1. Leave"),
        ([0.0], torch.zeros(1, 1, 2), "1 points in time, expected two or more"),
        ([0.0, 1.0], torch.zeros(2, 2), r"states have shape \[2, 2\], expected floats \[trajectories, times, n\]"),
        ([0.0, 1.0], torch.zeros(1, 2, 2, dtype=torch.long), "the torch.int64 states .*, expected floats"),
        ([0.0, 1.0, 2.0], torch.zeros(1, 2, 2), r"times have shape \[3\], expected \[2\] or \[1, 2\]"),
    ],
    ids=["repeated", "falling", "nan time", "nan state", "one point", "flat", "integers", "other length"],
)
def test_observations_that_say_nothing_are_refused(times, states, message):
    with pytest.raises(DataError, match=message):
        Trajectories(torch.tensor(times), states)


def test_windows_longer_than_the_trajectories_are_refused():
    with pytest.raises(DataError, match="windows of 5 steps in trajectories of 5 points"):
        ramp().windows(5)


def test_masked_values_are_no_values():
    states = np.ma.masked_greater(np.arange(6.0).reshape(1, 3, 2), 4.5)
    with pytest.raises(DataError, match="states have values that are masked"):
        Trajectories(torch.arange(3.0), states)  # type: ignore[arg-type] - as a user may


@pytest.mark.parametrize("irregular", [False, True], ids=["shared", "each its own"])
def test_uneven_times_are_marched_by_steps_of_their_own(irregular):
    """The spring's step of h is a rotation by 2 atan h."""
    drawn = DataSet(spring(), data_sets.springs().starts, torch.tensor([0.0, 0.1, 0.4, 0.5], dtype=WIDE))
    data = drawn.draw(3, seed=0, irregular=irregular, by_scheme=True)
    angles = torch.atan2(data.states[..., 0], data.states[..., 1]).diff(dim=1).remainder(2 * np.pi)
    torch.testing.assert_close(angles, 2 * torch.atan(data.times.diff(dim=1)), rtol=1e-11, atol=1e-12)


def test_times_keep_their_digits_beside_states_in_float32():
    times = 1.7e9 + 0.1 * torch.arange(5, dtype=WIDE)
    data = Trajectories(times, torch.zeros(1, 5, 2)).to(torch.float32)
    assert torch.equal(data.times[0], times)


def test_whole_times_that_floats_hold_are_taken_as_they_are():
    times = 2**53 + 256 * torch.arange(3)
    assert Trajectories(times, torch.zeros(1, 3, 2)).times.long().tolist() == [times.tolist()]


def test_arrays_and_lists_are_taken_as_tensors_in_their_own_floats():
    data = Trajectories(np.array([0.1, 0.2]), np.ones((1, 2, 3), np.float32), slopes=[[[0.1] * 3] * 2])  # type: ignore[arg-type]
    assert data.times.tolist() == [[0.1, 0.2]]
    assert (data.states.dtype, data.slopes is not None and data.slopes.dtype) == (torch.float32, WIDE)


@pytest.mark.parametrize("states", ["abc", {}, None, [[1.0], [2.0, 3.0]]], ids=["text", "nothing", "None", "ragged"])
def test_what_are_no_numbers_are_no_states(states):
    with pytest.raises(DataError, match=r"states are a (str|dict|list|NoneType), expected a tensor or an array of num"):
        Trajectories(torch.arange(2.0), states)
    with pytest.raises(DataError, match=r"times are a (str|dict|list|NoneType), expected a tensor or an array of num"):
        Trajectories(states, torch.ones(1, 2, 2))


@pytest.mark.parametrize("entries", [(1, 2), "qp", 3, (None, None), ("q", "q")], ids=str)
def test_entries_have_different_names(entries):
    with pytest.raises(SettingError, match=r"expected (their names as a tuple|different ones)"):
        Trajectories(torch.arange(2.0), torch.ones(1, 2, 2), entries)


@pytest.mark.parametrize("name", ["times", "states", "slopes"])
@pytest.mark.parametrize(
    ("hidden", "kind"),
    [
        (torch.Tensor.to_sparse, r"torch\.sparse_coo on cpu"),
        (lambda x: x.to("meta"), r"torch\.strided on meta"),
        (lambda x: torch.nested.as_nested_tensor([x, x], layout=torch.jagged), r"nested torch\.jagged"),
    ],
    ids=["sparse", "meta", "nested"],
)
def test_numbers_that_do_not_stand_in_memory_one_by_one_are_none(name, hidden, kind):
    given: dict[str, Any] = {"times": torch.arange(2.0), "states": torch.ones(1, 2, 2), "slopes": torch.ones(1, 2, 2)}
    with pytest.raises(DataError, match=f"{name} are a {kind}.*, expected a dense tensor"):
        Trajectories(**given | {name: hidden(given[name])})


@pytest.mark.parametrize("name", ["times", "states", "slopes"])
def test_complex_numbers_are_refused(name):
    given: dict[str, Any] = {"times": torch.arange(2.0), "states": torch.ones(1, 2, 2), "slopes": torch.ones(1, 2, 2)}
    with pytest.raises(DataError, match=f"{name} are torch.complex.*, expected real ones"):
        Trajectories(**given | {name: given[name] * 1j})


def test_what_is_written_to_a_tensor_afterwards_changes_no_observation():
    given = [torch.arange(2.0, dtype=WIDE), torch.ones(1, 2, 2), torch.ones(1, 2, 2)]
    times, states, slopes = given
    data = Trajectories(times, states, slopes=slopes)
    for x in given:
        x += 1
    assert data.times.tolist() == [[0.0, 1.0]]
    assert data.slopes is not None
    assert torch.equal(data.states, data.slopes)
    assert torch.equal(data.states, torch.ones(1, 2, 2))


def test_floats_that_no_array_has_are_not_saved(tmp_path):
    with pytest.raises(SettingError, match=r"bfloat16, which \.npz files do not hold: save data\.to\(torch\.float32\)"):
        ramp().to(torch.bfloat16).save(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", [">f4", ">f8", ">i8"])
def test_arrays_in_another_order_of_bytes_are_the_same_numbers(kind):
    states = np.arange(6.0).reshape(1, 3, 2)
    data = Trajectories(np.arange(3.0).astype(kind), states.astype(">f4"))  # type: ignore[arg-type] - as from a file
    assert (data.times.tolist(), data.states.tolist()) == ([[0.0, 1.0, 2.0]], states.tolist())
    assert data.states.dtype is torch.float32


@pytest.mark.parametrize("kind", ["datetime64[D]", "longdouble", "object"])
def test_numbers_of_a_kind_that_torch_has_not_are_named(kind):
    times = np.arange(3).astype(kind)
    with pytest.raises(DataError, match=rf"times are a ndarray of {re.escape(str(times.dtype))}, .* by x\.astype"):
        Trajectories(times, torch.ones(1, 3, 2))  # type: ignore[arg-type] - as a user may


@pytest.mark.parametrize("time", [None, "2", float("nan")], ids=str)
def test_what_is_no_time_cuts_nothing(time):
    with pytest.raises(DataError, match=r"time is .*, expected a finite number"):
        ramp().until(time)


def test_each_trajectory_is_cut_by_its_own_times():
    times = torch.tensor([[0.0, 1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5, 4.5]], dtype=WIDE)
    data = Trajectories(times, ramp().states)
    before, after = data.until(1.7)
    assert torch.equal(before.times, times[:, :2])
    assert torch.equal(after.times, times[:, 2:])
    with pytest.raises(DataError, match=r"have 2 to 3 points before 2\.2, expected as many in each"):
        data.until(2.2)


@pytest.mark.parametrize("time", [-1.0, 0.5, 3.5, 10.0])
def test_data_are_cut_within_their_span(time):
    assert [x.times.shape[1] for x in ramp().until(2.0)] == [2, 3]
    with pytest.raises(DataError, match=r"there are \d points before .*: take a time well within 0 to 4"):
        ramp().until(time)


def test_names_in_a_list_are_those_in_a_tuple():
    system = physics.System("spring", lambda u: u.square().sum(-1), rotate, ["q", "p"])  # type: ignore[arg-type] - as a user may
    data = Trajectories(torch.linspace(0, 1, 5), torch.rand(2, 5, 2), ["q", "p"])  # type: ignore[arg-type] - as a user may
    assert data.entries == system.entries == ("q", "p")
    assert physics.evaluate(physics.energy_model(2), system, data).state > 0
