"""What is written to a run folder comes back, and a folder that is not free is refused."""

import json
import math
import resource
import subprocess
import sys
import warnings

import numpy as np
import pytest

from eom.errors import (
    DamagedRunError,
    FolderInUseError,
    FolderNotWritableError,
    FolderUsedError,
    NewerRunError,
    NotARunError,
    RecordsNotWritten,
    TornTableWarning,
)
from eom.records import Row, RunWriter, open_run

STRANGE = [
    "nan", "NA", "", "1e5", "null", " lead ", "#", '"', '""', "a,b", "'", "l1\nl2", "\r", "\r\n",
    "<script>alert(1)</script>", "é", "\ufeff", 'mixed ",\n" end', "layer\\n",
]  # fmt: skip


def value_row(step: int, value: float, group: str = "g", bar: float | None = None) -> Row:
    return Row(step, 0.1 * step, group, "norm", "measured", value, bar)


def test_floats_come_back_bit_for_bit(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64, endpoint=False)
    edges = [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        2.225073858507201e-308,
        sys.float_info.max,
        math.inf,
        -math.inf,
        math.nan,
    ]
    values = np.concatenate([bits.view(np.float64), bits[:2000].astype(np.uint32).view(np.float64), edges])
    with RunWriter.create(tmp_path / "run", {}) as writer:
        writer.append(Row(k, v, "g", "q", "s", v, v) for k, v in enumerate(values.tolist()))
    table = open_run(tmp_path / "run").table()
    for column in ("time", "value", "bar"):
        back = table[column].to_numpy()
        same = (back.view(np.uint64) == values.view(np.uint64)) | (np.isnan(back) & np.isnan(values))
        assert same.all()


def test_any_group_name_comes_back_as_it_was(tmp_path):
    with RunWriter.create(tmp_path / "run", {"groups": STRANGE}) as writer:
        writer.append(value_row(k, 1.0, name) for k, name in enumerate(STRANGE))
        for name in STRANGE:
            writer.event(0, 0.0, "note", name)
        run = open_run(tmp_path / "run")  # while the writer has it open
        assert list(run.table().group) == STRANGE
        assert list(run.events().message) == STRANGE
    assert run.manifest["groups"] == STRANGE


def test_a_message_without_utf8_is_written_all_the_same(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        writer.event(0, 0.0, "note", "lone \ud800")
    assert list(open_run(tmp_path / "run").events().message) == ["lone \\ud800"]


def test_a_missing_bar_is_nan_and_an_empty_run_has_typed_columns(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        empty = open_run(tmp_path / "run").table()
        writer.append([value_row(0, 1.0), value_row(1, 1.0, bar=math.inf)])
    table = open_run(tmp_path / "run").table()
    assert math.isnan(table.bar[0])
    assert math.isinf(table.bar[1])
    assert dict(empty.dtypes.astype(str)) == dict(table.dtypes.astype(str))
    assert str(empty.step.dtype) == "int64"


def test_a_table_cut_anywhere_keeps_every_whole_row(tmp_path):
    groups = ["plain", 'quoted "name"', "two\nlines, and a comma", "\n", '"\n"']
    with RunWriter.create(tmp_path / "run", {}) as writer:
        ends = []
        for k, group in enumerate(groups):
            writer.append([value_row(k, k / 3, group)])
            ends.append((tmp_path / "run/table.csv").stat().st_size)
    path = tmp_path / "run/table.csv"
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = open_run(tmp_path / "run").table()
        assert list(table.group) == [group for group, end in zip(groups, ends, strict=True) if end <= cut]
        torn = cut not in (0, header, *ends)
        assert [w.category for w in caught] == [TornTableWarning] * torn


def test_arrays_come_back_and_are_replaced_whole(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        assert open_run(tmp_path / "run").arrays() == {}
        writer.arrays(old=np.ones(3))
        writer.arrays(spectrum=np.arange(4.0))
    arrays = open_run(tmp_path / "run").arrays()
    assert list(arrays) == ["spectrum"]
    assert arrays["spectrum"].tolist() == [0, 1, 2, 3]


def test_arrays_that_need_pickle_are_refused(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer, pytest.raises(TypeError, match="object"):
        writer.arrays(things=np.array([{}]))


def test_the_manifest_is_strict_json_and_grows_by_update(tmp_path):
    with RunWriter.create(tmp_path / "run", {"seed": 1, "value": math.nan}) as writer:
        writer.update(self_test=[{"check": "c", "value": math.inf}])
    text = (tmp_path / "run/manifest.json").read_text()
    manifest = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert manifest["value"] is None
    assert manifest["self_test"] == [{"check": "c", "value": None}]
    assert (manifest["format"], manifest["schema"], manifest["seed"]) == ("eom-run", 1, 1)


def test_a_used_folder_is_refused(tmp_path):
    RunWriter.create(tmp_path, {}).close()
    with pytest.raises(FolderUsedError, match=r"already holds manifest\.json"):
        RunWriter.create(tmp_path, {})


def test_a_folder_with_other_things_in_it_is_taken(tmp_path):
    (tmp_path / "checkpoint.pt").write_text("weights")
    RunWriter.create(tmp_path, {}).close()
    assert (tmp_path / "checkpoint.pt").read_text() == "weights"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(FolderUsedError, match="is a file"):
        RunWriter.create(tmp_path / "run", {})
    with pytest.raises(FolderNotWritableError, match="choose another folder"):
        RunWriter.create(tmp_path / "run" / "deeper", {})
    assert (tmp_path / "run").read_text() == "precious"


def test_an_unwritable_place_is_refused():
    with pytest.raises(FolderNotWritableError, match="/proc/run"):
        RunWriter.create("/proc/run", {})  # where root cannot write either


def test_a_folder_in_use_is_refused_until_its_writer_is_gone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(FolderInUseError, match="in use by another writer"):
            RunWriter.create(tmp_path, {})
        with pytest.raises(FolderInUseError):
            RunWriter.resume(tmp_path, 0, {})
        child.kill()
    RunWriter.resume(tmp_path, 0, {}).close()


HOLD = """
import sys
from eom.records import RunWriter
writer = RunWriter.create(sys.argv[1], {})
print("open", flush=True)
sys.stdin.read()
"""


def test_a_full_disk_loses_nothing_and_tears_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True)
    refused = [int(line) for line in done.stdout.split()]
    assert refused == [40, 80, 1]  # rows that waited at each refusal, and the event
    run = open_run(tmp_path)
    assert list(run.table().step) == list(range(160))
    assert list(run.events().kind) == ["full", "free"]


FILL = f"""
import resource, sys
from pathlib import Path
from eom.errors import RecordsNotWritten
from eom.records import Row, RunWriter, open_run

writer = RunWriter.create(sys.argv[1], {{}})
def rows(first):
    return [Row(k, 0.1, "two\\nlines", "norm", "measured", k / 3) for k in range(first, first + 40)]
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, {resource.RLIM_INFINITY}))
def refused(write, *arguments):
    try:
        write(*arguments)
    except RecordsNotWritten as error:
        print(error.waiting)

writer.append(rows(0))
limit((Path(sys.argv[1]) / "table.csv").stat().st_size + 100)  # two rows and a half more
refused(writer.append, rows(40))
refused(writer.append, rows(80))
assert len(open_run(sys.argv[1]).table()) == 40
limit(30)
refused(writer.event, 0, 0.0, "full", "disk")
limit({resource.RLIM_INFINITY})
writer.append(rows(120))
writer.event(1, 0.1, "free", "again")
writer.close()
"""


def test_rows_that_wait_are_written_by_close_or_reported_lost(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = RunWriter.create(tmp_path, {})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
        with pytest.raises(RecordsNotWritten, match="1 rows wait"):
            writer.append([value_row(0, 1.0)])
        with pytest.raises(RecordsNotWritten, match="could not be replaced"):
            writer.update(note="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()
    writer.close()  # a second time is nothing
    run = open_run(tmp_path)
    assert len(run.table()) == 1
    assert run.manifest["note"] == "x" * 100
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "events.csv", "manifest.json", "table.csv"]


def test_resume_drops_rows_from_its_step_on_and_goes_on_without_a_seam(tmp_path):
    def rows(steps):
        return [value_row(k, k / 7, 'a "name"\nof two lines') for k in steps]

    with RunWriter.create(tmp_path / "through", {}) as writer:
        writer.append(rows(range(20)))
    with RunWriter.create(tmp_path / "cut", {"seed": 3, "finished": "then"}) as writer:
        writer.append(rows(range(15)))
        writer.event(9, 0.9, "kept", "a")
        writer.event(10, 1.0, "dropped", "b")
    with (tmp_path / "cut/table.csv").open("ab") as file:
        file.write(b'15,1.5,"a ""na')
    again = {"command": ["train", "--resume"], "created": "now", "seed": 4}
    with RunWriter.resume(tmp_path / "cut", 10, again) as writer:
        writer.append(rows(range(10, 20)))
    assert (tmp_path / "cut/table.csv").read_bytes() == (tmp_path / "through/table.csv").read_bytes()
    run = open_run(tmp_path / "cut")
    assert list(run.events().kind) == ["kept"]
    assert run.manifest["resumed"] == [{"step": 10, "command": ["train", "--resume"], "created": "now"}]
    assert run.manifest["seed"] == 3
    assert "finished" not in run.manifest


@pytest.mark.parametrize(
    ("text", "error", "advice"),
    [
        (None, NotARunError, "holds no manifest.json"),
        ('{"format": "mlflow"}', NotARunError, "'mlflow', expected 'eom-run'"),
        ("[]", NotARunError, "None, expected 'eom-run'"),
        ('{"format": "eom-run", "schema": 2, "eom": "9.0"}', NewerRunError, "Update eom.*9.0"),
        ('{"format": "eom-run"}', DamagedRunError, "schema None, expected"),
        ('{"format": "eom-r', DamagedRunError, "not JSON"),
        ("\xff", DamagedRunError, "not JSON"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused_with_advice(tmp_path, text, error, advice):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(error, match=advice):
        open_run(tmp_path)
    with pytest.raises(error, match=advice):
        RunWriter.resume(tmp_path, 0, {})


def test_a_path_that_is_no_folder_is_no_run(tmp_path):
    with pytest.raises(NotARunError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotARunError, match="is a file"):
        open_run(tmp_path / "file")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,time,group,quantity,source,value,bar\n1,x,g,q,s,1.0,\n"])
def test_a_table_changed_by_something_else_is_refused(tmp_path, text):
    RunWriter.create(tmp_path, {}).close()
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DamagedRunError, match="something else has changed it"):
        open_run(tmp_path).table()


def test_records_and_reading_import_no_torch():
    code = "import sys, eom.records; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
