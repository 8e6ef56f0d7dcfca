"""Files that others have made: tables of motions, and frames of films."""

import gzip

import numpy as np
import pytest
from PIL import Image

from eom.errors import DataError
from eom.physics import read_csv, read_frames


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
        ("t,x\n", "a header and no rows"),
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
        "no rows",
        "infinite",
    ],
)
def test_csv_files_with_errors_are_refused_with_the_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "a.csv", time="t", coordinates=["x"])


def test_a_csv_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"t,x\n0,\xff\xfe\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"t,x\n0,1\n1,y\n"))
    for name in ("b.csv", "b.csv.gz"):
        with pytest.raises(DataError, match=f"{name} could not be read .* Save it as one"):
            read_csv(tmp_path / name, time="t", coordinates=["x"])
    for name in ("a.csv", "."):
        with pytest.raises(DataError, match="could not be read: there is no such file"):
            read_csv(tmp_path / name, time="t", coordinates=["x"])
    (tmp_path / "c.csv").write_text("r,t,x\na,0,1\na,1,2\nb,0,1\n")
    with pytest.raises(DataError, match="trajectories have 1 to 2 rows; expected as many in each: cut all to 1, or"):
        read_csv(tmp_path / "c.csv", time="t", coordinates=["x"], member="r")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,x\n\n5,0,1\n6,1,2\n", "line 3 has 3 entries, and the header names 2 columns: name them all"),
        ("t,x\n5,0\n6,1,2\n", "line 3 has 3 entries, and the header names 2 columns: name them all"),
        ("t,x,x\n0,1,2\n1,1,2\n", "has 2 columns .x., expected one"),
        ("t,x,run,run \n0,1,a,b\n1,2,a,b\n", "has 2 columns .run., expected one"),
        ("t,y,y\n0,1,2\n1,1,2\n", "has the columns t, y, y, and not x"),
        ("t,x,run\n0,1,a\n1,2,\n", r"line 3: run is empty, so that its trajectory is not known"),
    ],
    ids=["longer rows", "a longer row", "twice", "two runs", "not there", "no run"],
)
def test_csv_files_whose_columns_are_not_what_they_seem_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "a.csv", time="t", coordinates=["x"], member="run" if "run" in text else None)


@pytest.mark.parametrize(
    "named",
    [{"coordinates": [0, 1]}, {"coordinates": None}, {"coordinates": "x"}, {"coordinates": []}, {"time": None},
     {"time": ["t"]}, {"member": 0}, {"member": "t"}],
    ids=["numbers", "no coordinates", "one name", "none", "no time", "times", "member", "the time as member"],
)  # fmt: skip
def test_columns_are_told_by_their_names(tmp_path, named):
    (tmp_path / "a.csv").write_text("t,x\n0,1\n1,2\n")
    with pytest.raises(
        DataError, match=r"time is .*, coordinates are .* and member is .*, expected different names of columns"
    ):
        read_csv(tmp_path / "a.csv", **{"time": "t", "coordinates": ["x"]} | named)


def test_frames_come_in_the_order_of_their_numbers_and_values_beyond_one_are_refused(tmp_path):
    for k in (10, 2, 1):
        Image.fromarray(np.full((3, 4), k, np.uint8)).save(tmp_path / f"frame_{k}.png")
    assert (read_frames(tmp_path)[:, 0, 0] * 255).round().tolist() == [1, 2, 10]
    chosen = (tmp_path / f"frame_{k}.png" for k in (10, 1))
    assert (read_frames(chosen)[:, 0, 0] * 255).round().tolist() == [10, 1]
    np.save(tmp_path / "a.npy", np.full((2, 3, 4), 40_000, np.uint16))
    (tmp_path / "b.npy").write_bytes(b"")
    with pytest.raises(DataError, match="holds no array without pickle"):
        read_frames(tmp_path / "b.npy")
    with pytest.raises(DataError, match=r"values 40000 to 40000: scale them to 0\.\.1"):
        read_frames(tmp_path / "a.npy")


@pytest.mark.parametrize("paths", [[1], None, np.ones((2, 3, 4))], ids=["number", "none", "frames"])
def test_what_are_no_paths_are_no_frames(paths):
    with pytest.raises(DataError, match=r"a path is a (int|NoneType|ndarray), expected the names of pictures"):
        read_frames(paths)


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
