"""`eom demo`, small: from the command to the page."""

import pytest
from typer.testing import CliRunner

from eom import demo, stochastic_demo
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


@pytest.mark.slow
def test_the_stochastic_demo_ends_with_two_pages_and_what_they_say(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--stochastic", "--small", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "follows an ODE (order 1.00)" in said
    assert "stays 0.618 off however deep it is" in said
    assert "Leimkuhler-Matthews has order 1.99 where Euler-Maruyama (ULA, SGLD) has 0.99" in said
    assert "its stochastic equation of order 2 to order 2.00" in said
    assert "SGD as a stochastic equation is credible for this training" in said
    for page in ("stochastic.html", "svag.html"):
        assert "<svg" in (tmp_path / "out" / page).read_text("utf-8")


def test_the_demo_does_not_write_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for run in (demo.run_demo, stochastic_demo.run_stochastic_demo):
        with pytest.raises(FolderUsedError, match="--out"):
            run(tmp_path)
