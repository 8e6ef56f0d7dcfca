"""`eom demo`, small: from the command to the page."""

import pytest
from typer.testing import CliRunner

from eom import demo
from eom.cli import app
from eom.errors import FolderUsedError
from eom.records import open_run


@pytest.mark.slow
def test_the_demo_ends_with_a_report_of_three_runs_one_of_them_beyond_the_edge(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--small", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert str(tmp_path / "out/report.html").replace("\n", "") in result.output.replace("\n", "")
    runs = [open_run(tmp_path / "out" / f"lr-{lr:g}") for lr in demo.RATES]
    assert all("finished" in run.manifest for run in runs)
    assert "edge of stability" in page
    assert "stopped holding" in page


def test_the_demo_does_not_write_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FolderUsedError, match="--out"):
        demo.run_demo(tmp_path)
