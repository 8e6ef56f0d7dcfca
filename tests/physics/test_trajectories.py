"""Observations: what is taken, what is refused and how it is said, files."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eom.errors import DataError, SettingError
from eom.physics import DataSet, Trajectories, data_sets, read_csv, read_frames
from eom.physics.data_sets import motion
from eom.physics.systems import spring

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


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
def test_a_csv_file_becomes_a_trajectory(tmp_path, mark):
    path = tmp_path / "pendulum.csv"
    path.write_text(f"{mark}time, angle,velocity,note\n0,.5,0,a\n.1, .49,-.1,b\n.3,.4,-.2,c\n", encoding="utf-8")
    data = read_csv(path, time="time", coordinates=["angle", "velocity"])
    assert data.entries == ("angle", "velocity")
    assert data.times.tolist() == [[0.0, 0.1, 0.3]]
    assert data.states.tolist() == [[[0.5, 0.0], [0.49, -0.1], [0.4, -0.2]]]


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("1.1", "1.10"), ("1", "01")])
def test_a_column_tells_trajectories_apart(tmp_path, one, other):
    path = tmp_path / "two.csv"
    path.write_text(f"run ,t,x\n{one},0,1\n{other} ,0,5\n{one} ,1,2\n{other},2,6\n")  # blanks are no part of a name
    data = read_csv(path, time="t", coordinates=["x"], member="run")
    assert data.states[..., 0].tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert data.times.tolist() == [[0.0, 1.0], [0.0, 2.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,x\n0,1\n1,two\n", r"line 3: x holds 'two', which is no number \(1 such lines\)"),
        ("t,x\n0,1\n1,\n2,\n", r"line 3: x is empty \(2 such lines\)\. Delete them; times need not be even"),
        ("t,y\n0,1\n1,2\n", "has the columns t, y, and not x"),
        ("\n\nt,x\n\n0,1\n  \n1,two\n", "line 7: x holds 'two'"),
        ("t,x\n0,1\n0,2\n", r"times of trajectory 0 repeat or fall at points 0 and 1: .* as member=\."),
        ("t;x\n0;1,5\n1;2,5\n", "has one column, 't;x', expected two or more: save it with commas"),
        ("t\tx\n0\t1\n1\t2\n", r"has one column, 't\\tx', .* in place of tabs"),
        ("# a, b\nt,x,y\n0,1,2\n", "begins with '# a', expected the names of columns: delete comments"),
        ("t,x\n2020-01-01,1\n", "line 2: t holds '2020-01-01', .* Convert dates to the time since the first"),
        ('t,x\n0,"1,5"\n1,"2,5"\n', r"line 2: x holds '1,5', which is no number .* Write decimal points"),
        ("t,x\n0,True\n1,False\n", r"line 2: x holds 'True', which is no number \(2 such lines\)"),
        ("t,x\n0,1\n", "1 points in time"),
        (
            "t,x\n1700000000000000001,1\n1700000000000000021,2\n",
            r"whole numbers up to 17\d*21, .* lose digits: subtract",
        ),
        ("", "could not be read as a CSV file"),
        ("t,x\n0,1\n1,inf\n", "1 numbers among the states are not finite, the first of x"),
    ],
    ids=[
        "string",
        "empty",
        "missing column",
        "after blank lines",
        "repeated time",
        "semicolons",
        "tabs",
        "comment",
        "dates",
        "decimal commas",
        "booleans",
        "one line",
        "nanoseconds",
        "nothing",
        "infinite",
    ],
)
def test_csv_files_with_errors_are_refused_with_the_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "a.csv", time="t", coordinates=["x"])


def test_a_csv_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"t,x\n0,\xff\xfe\n")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(DataError, match=f"{name} could not be read"):
            read_csv(tmp_path / name, time="t", coordinates=["x"])
    (tmp_path / "c.csv").write_text("r,t,x\na,0,1\na,1,2\nb,0,1\n")
    with pytest.raises(DataError, match="trajectories have 1 to 2 rows"):
        read_csv(tmp_path / "c.csv", time="t", coordinates=["x"], member="r")


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


def test_irregular_times_lie_between_the_first_and_the_last():
    drawn = data_sets.springs(noise=0.0)
    later = dataclasses.replace(drawn, times=drawn.times + 5).draw(2, seed=0, irregular=True)
    torch.testing.assert_close(later.times - 5, drawn.draw(2, seed=0, irregular=True).times)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,x\n5,0,1\n6,1,2\n", "could not be read as a CSV file"),
        ("t,x,x\n0,1,2\n1,1,2\n", "different columns, each there once"),
        ("t,x,run\n0,1,a\n1,2,\n", r"line 3: run is empty, so that its trajectory is not known"),
    ],
    ids=["longer rows", "twice", "no run"],
)
def test_csv_files_whose_columns_are_not_what_they_seem_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "a.csv", time="t", coordinates=["x"], member="run" if "run" in text else None)


def test_times_keep_their_digits_beside_states_in_float32():
    times = 1.7e9 + 0.1 * torch.arange(5, dtype=WIDE)
    data = Trajectories(times, torch.zeros(1, 5, 2)).to(torch.float32)
    assert torch.equal(data.times[0], times)


def test_whole_times_that_floats_hold_are_taken_as_they_are():
    times = 2**53 + 256 * torch.arange(3)
    assert Trajectories(times, torch.zeros(1, 3, 2)).times.long().tolist() == [times.tolist()]


def test_exact_trajectories_are_at_times_of_ones_own():
    drawn = data_sets.springs()
    solution = drawn.system.solution
    assert solution is not None
    for times in ([0.0, 0.5, 2.0], [[0.0, 0.5, 2.0], [0.0, 1.0, 2.0]]):
        data = drawn.exact(2, 0, times)  # type: ignore[arg-type] - lists become tensors
        assert data.times.tolist() == torch.tensor(times).expand(2, 3).tolist()
        for one, at in zip(data.states, data.times, strict=True):
            torch.testing.assert_close(one, torch.stack([solution(t, one[0]) for t in at.tolist()]))


def test_frames_come_in_the_order_of_their_numbers_and_values_beyond_one_are_refused(tmp_path):
    for k in (10, 2, 1):
        Image.fromarray(np.full((3, 4), k, np.uint8)).save(tmp_path / f"frame_{k}.png")
    assert (read_frames(tmp_path)[:, 0, 0] * 255).round().tolist() == [1, 2, 10]
    chosen = (tmp_path / f"frame_{k}.png" for k in (10, 1))
    assert (read_frames(chosen)[:, 0, 0] * 255).round().tolist() == [10, 1]
    np.save(tmp_path / "a.npy", np.full((2, 3, 4), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"values 40000 to 40000: scale them to 0\.\.1"):
        read_frames(tmp_path / "a.npy")


@pytest.mark.parametrize("paths", [[1], None, np.ones((2, 3, 4))], ids=["number", "none", "frames"])
def test_what_are_no_paths_are_no_frames(paths):
    with pytest.raises(DataError, match=r"a path is a (int|NoneType|ndarray), expected the names of pictures"):
        read_frames(paths)


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


@pytest.mark.parametrize("time", [-1.0, 0.5, 3.5, 10.0])
def test_data_are_cut_within_their_span(time):
    assert [x.times.shape[1] for x in ramp().until(2.0)] == [2, 3]
    with pytest.raises(DataError, match=r"there are \d points before .*: take a time well within 0 to 4"):
        ramp().until(time)


def test_pictures_of_sixteen_bits_keep_their_greys(tmp_path):
    grey = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert read_frames(tmp_path).tolist() == [(grey / 65535).tolist()]


def test_an_animation_gives_all_its_frames_and_stands_alone(tmp_path):
    frames = [Image.fromarray(np.full((3, 4), k, np.uint8)) for k in (10, 200, 90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_frames(tmp_path / "a.gif")[:, 0, 0] * 255).round().tolist() == [10, 200, 90]
    frames[0].save(tmp_path / "b.gif")
    with pytest.raises(DataError, match=r"a\.gif is an animation among 2 files: give it alone"):
        read_frames(tmp_path)
    for path in (tmp_path / "c.gif", tmp_path / "no" / "folder"):
        with pytest.raises(DataError, match="a frame could not be read"):
            read_frames(path)
