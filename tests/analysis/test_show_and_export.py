"""The terminal view fits, and exports hold the same numbers."""

import csv
import io
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic import LAYERS, rows_at, synthetic_run

from eom.analysis.export import export
from eom.analysis.show import show
from eom.errors import FolderNotWritableError, MissingExtraError, NotARunError, SettingError
from eom.records import RunWriter, open_run

NASTY = '[red]<b>"q"</b>,\n$w^$'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = synthetic_run(tmp_path_factory.mktemp("runs") / "run", [NASTY, *LAYERS], steps=250)
    with RunWriter.resume(run.path, 10**6, {}) as writer:
        writer.append([row._replace(step=999, value=v) for row, v in zip(
            rows_at(0, LAYERS), (math.nan, math.inf, -math.inf, 5e-324, 1 / 3), strict=False)])  # fmt: skip
    return open_run(run.path)


def shown(run) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    show(run, console)
    return console.export_text()


def test_the_terminal_view_is_whole_at_80_columns(run):
    text = shown(run)
    assert max(map(len, text.splitlines())) <= 80
    for name in (*LAYERS, '[red]<b>"q"', "gradient", "order 1", "order 2", "2 bars", "100"):
        assert name in text
    assert text.count("head.weight") == 2  # rates and displacements
    assert "• Gradient flow misses" in text


def test_the_terminal_view_of_an_empty_run_says_that_it_is_empty(tmp_path):
    RunWriter.create(tmp_path / "run", {}).close()
    assert "no records yet" in shown(tmp_path / "run")


def test_the_last_events_are_shown(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        for step in range(8):
            writer.event(step, 0.1, "skipped_step", "scaler\n[bold]")
    text = shown(tmp_path / "run")
    assert "step 7: skipped_step: scaler\\n[bold]" in text
    assert "and 3 earlier events in events.csv" in text


def test_parquet_holds_the_same_table(run, tmp_path):
    pytest.importorskip("pyarrow")
    path = export(run, "parquet", tmp_path)
    assert path == tmp_path / "export.parquet"
    assert pd.read_parquet(path).equals(run.table())


def test_csv_holds_the_same_table(run, tmp_path):
    with export(run, "csv", tmp_path).open(newline="", encoding="utf-8") as file:
        back = list(csv.DictReader(file))
    table = run.table()
    assert [row["group"] for row in back] == list(table.group)
    for column in ("time", "value", "bar"):
        assert np.array_equal([float(row[column]) for row in back], table[column], equal_nan=True)


def test_json_is_strict_and_holds_the_manifest(run):
    path = export(run, "json")
    assert path == run.path / "export.json"
    content = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert content["manifest"]["groups"][0] == NASTY
    assert len(content["rows"]) == len(run.table())
    assert content["rows"][0].keys() == {"step", "time", "group", "quantity", "source", "value", "bar"}
    assert [row["value"] for row in content["rows"][-5:]] == [None, None, None, 5e-324, 1 / 3]


def test_an_export_never_replaces_the_runs_own_table(run):
    with pytest.raises(SettingError, match="the run's own table"):
        export(run, "csv", run.path / "table.csv")


def test_an_unknown_format_and_a_place_that_is_none_are_refused(run, tmp_path):
    with pytest.raises(SettingError, match="'xlsx', expected one of parquet, csv, json"):
        export(run, "xlsx")
    with pytest.raises(FolderNotWritableError, match="choose another place"):
        export(run, "csv", tmp_path / "no" / "such" / "folder.csv")
    with pytest.raises(NotARunError):
        export(tmp_path, "csv")


def test_parquet_without_pyarrow_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'eom\[parquet\]'"):
        export(run, "parquet")


def test_showing_imports_neither_torch_nor_a_drawing_library():
    code = "import sys, eom.analysis.show, eom.analysis.export, eom.analysis.report; "
    code += "assert not {'torch', 'matplotlib', 'seaborn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
