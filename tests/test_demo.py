"""`eom demo`, small: from the command to the page."""

import math
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from eom import demo, physics, physics_demo, physics_findings, stochastic_demo
from eom.cli import app
from eom.errors import FolderUsedError
from eom.physics import Scores
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


def test_the_physics_demo_ends_with_a_page_an_animation_and_what_its_own_numbers_say(tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["demo", "--physics", "--small", "--out", str(out)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "The discrete gradient keeps the energy it has learned to rounding" in said
    assert "Exact energy is not an accurate state" in said
    assert "is no ranking of methods" in said
    assert re.search(r"predicts 0\.1 of 3 unseen ones .* keeps its own energy to [\d.]+e-\d+ of its spread", said)
    page = (out / "physics.html").read_text("utf-8")
    for text in ("observed points", "error of the true energy", "grid neural ODE − true", "mass drift"):
        assert text in page
    assert page.count("<figure>") == 3
    assert "<link" not in page.replace('<link rel="icon" href="data:,">', "")
    with Image.open(out / "pendulum.gif") as film:
        assert film.n_frames == 11  # type: ignore[attr-defined]
    printed = result.output.replace("\n", "")
    assert str(out / "physics.html") in printed
    assert str(out / "pendulum.gif") in printed


def test_two_demonstrations_at_once_are_refused(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--physics", "--stochastic", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "choose one" in result.output
    assert not (tmp_path / "out").exists()


def score(**changed):
    return Scores(**{"derivative": 0.01, "energy": 0.01, "state": 1.0, "drift": 1e-13, "invariants": float("nan"),
                     "rising": float("nan"), "horizon": 1.0, **changed})  # fmt: skip


def told(**scores):
    """Sentences about a pendulum's models with these scores, of which all but the plain one have an energy."""
    system, times = physics.pendulum(), torch.linspace(0, 1, 3)
    motion = physics.Trajectories(times, torch.ones(1, 3, 2, dtype=torch.float64), system.entries)
    part = physics_findings.Learned("Pendulum", system, motion, motion, 1.0, 0.1, scores=scores)
    part = replace(part, predicted={name: motion for name, one in scores.items() if math.isfinite(one.state)})
    return [physics_findings.leaders(part), *physics_findings.kept(part), *physics_findings.stopped(part)]


def test_sentences_claim_no_more_than_the_scores_hold():
    exact = told(a=score(), b=score(derivative=0.001, drift=math.nan))
    assert "no one of these numbers stands for the others" in exact[0]
    assert "to rounding" in exact[1]
    assert "Exact energy is not an accurate state: that is off by 1, 100 % of its size" in exact[1]
    assert len(exact) == 2  # a model without an energy keeps none
    close = told(a=score(state=1e-6), b=score(state=0.5, derivative=1.0, energy=1.0, drift=1e-3))
    assert "stands for the others" not in close[0]
    assert "Exact energy" not in close[1]
    assert "rounding" not in close[2]
    halted = told(a=score(state=math.inf, energy=math.inf, drift=math.nan), b=score())
    assert halted[-1].startswith("Pendulum: the prediction of the a stopped")


def test_the_demo_does_not_write_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for run in (demo.run_demo, stochastic_demo.run_stochastic_demo, physics_demo.run_physics_demo):
        with pytest.raises(FolderUsedError, match="--out"):
            run(tmp_path)
