"""Runs of different learning rates beside each other: planted laws are found, and what cannot be compared is named."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import manifest
from torch import nn
from typer.testing import CliRunner

import eom
from eom.analysis.compare import Comparison, compare
from eom.analysis.scaling import crossing, interpolated, largest, slope
from eom.analysis.verdict import verdict
from eom.cli import app
from eom.errors import FolderNotWritableError, NotARunError, SettingError
from eom.records import Row, Run, RunWriter, open_run

LAYERS = ["a.weight", "b.weight"]
SHARPNESS = 10.0  # of every planted run


def planted(
    path: Path,
    lr: float,
    *,
    steps: int = 100,
    every: int = 10,
    schedule: Callable[[int], float] | None = None,
    end: str | None = None,
    decay: float = 0.0,
    orders: int = 2,
    reference: str = "measured",
    **changes,
) -> Run:
    """A run whose relative errors are .5 lr at order 0 and 2 lr^2 at order 1, bars as large, rates exp(-time)."""
    own = {"lr": lr, "weight_decay": decay}
    settings = manifest(LAYERS)["settings"] | {"reference_lr": lr, "lr": [lr], "optimizer_settings": own}
    with RunWriter.create(path, manifest(LAYERS, settings=settings, **changes)) as writer:
        time = 0.0
        for step in range(steps):
            own = schedule(step) if schedule else lr
            if step % every == 0:
                rows = [
                    ("loss", np.exp(-time)),
                    ("lr", own),
                    ("gradient_norm", np.exp(-time)),
                    ("sharpness", SHARPNESS),
                ]
                writer.append(Row(step, time, "all", q, "measured", float(v)) for q, v in rows)
                writer.append(Row(step, time, g, "norm_squared", "measured", 4.0) for g in (*LAYERS, "all"))
                writer.append([Row(step, time, "all", "step_error", "order-0", 0.4 * own)][:orders])
                for place, group in enumerate(LAYERS, 1):
                    size = place * float(np.exp(-time))
                    writer.append([Row(step, time, group, "norm_squared_rate", reference, size, 1e-12)])
                    for k, share in ((0, 0.5 * own), (1, 2 * own**2))[:orders]:
                        value, bar = size * (1 + share), size * share
                        writer.append([Row(step, time, group, "norm_squared_rate", f"order-{k}", value, bar)])
            time += own
        if end:
            writer.event(steps, time, "interrupted", end)
        writer.update(steps=steps, **({} if end else {"finished": "now"}))
    return open_run(path)


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    return [planted(tmp_path / f"lr-{lr}", lr) for lr in (0.3, 0.01, 0.05, 0.02)]


def test_planted_powers_of_the_learning_rate_are_found_in_every_layer(runs):
    found = compare(runs)
    slopes = found.scaling()
    assert sorted(slopes.index) == [(g, f"order-{k}") for g in LAYERS for k in (0, 1)]
    for k, power in ((0, 1), (1, 2)):
        fits = slopes.xs(f"order-{k}", level="source")
        assert fits.slope.tolist() == pytest.approx([power] * 2, abs=1e-9)
        assert (fits.low <= power + 1e-9).all()
        assert (fits.high >= power - 1e-9).all()
        assert fits.runs.tolist() == [3, 3]  # at .3 lr x sharpness is 3, where nothing converges
    assert found.pooled()["order-1"].slope == pytest.approx(2, abs=1e-9)


def test_the_table_has_a_row_for_each_run_in_order_of_the_rates(runs):
    table = compare(runs).table()
    assert table.lr.tolist() == [0.01, 0.02, 0.05, 0.3]
    assert table.run.tolist() == ["lr-0.01", "lr-0.02", "lr-0.05", "lr-0.3"]
    assert table["order-0"].tolist() == pytest.approx([0.005, 0.01, 0.025, 0.15])
    assert table["order-1"].tolist() == pytest.approx([2e-4, 8e-4, 5e-3, 0.18])
    assert table.sharpest.tolist() == pytest.approx([0.1, 0.2, 0.5, 3])
    assert table.edge.isna().tolist() == [True, True, True, False]
    assert set(table.end) == {"finished"}


def test_the_largest_rate_for_an_error_is_where_the_planted_laws_put_it(runs):
    found = compare(runs).largest(0.012)
    assert found["order-0"].seen == (pytest.approx(0.024), "")  # .5 lr
    assert found["order-1"].seen == (pytest.approx(0.0775, rel=1e-2), "")  # sqrt(.012 / 2)
    assert found["order-0"].bars.value == pytest.approx(0.024)
    assert found["order-0"].step.value == pytest.approx(0.03)  # .4 lr
    assert np.isnan(found["order-1"].step.value)
    assert compare(runs).largest(0.5)["order-0"].seen == (0.3, ">")
    assert compare(runs).largest(0.001)["order-0"].seen == (0.01, "<")


def test_the_rate_by_one_step_rises_with_the_wanted_error_and_ends_with_the_runs():
    """Also where the last run, at the edge of stability, is far off the law of the others."""
    lr, share = [0.01, 0.1, 1.0], [0.01, 0.1, 50.0]
    shares = pd.DataFrame({"source": "order-0", "lr": lr, "step": share, "error": np.nan, "bar": np.nan})
    found = [largest(shares, "order-0", wanted).step for wanted in (0.001, 0.01, 0.05, 0.1, 1, 100)]
    assert [rate.value for rate in found[:4]] == pytest.approx([0.01, 0.01, 0.05, 0.1])
    assert 0.1 < found[4].value < 1
    assert [rate.bound for rate in found] == ["<", "", "", "", "", ">"]
    assert found[5].value == 1


def test_the_summary_answers_in_words(runs):
    first, *others = verdict(compare(runs), 0.012)
    assert "4 runs of one model from the same start, at learning rates 0.01 to 0.3, 100 steps each." in first
    assert (
        "Gradient flow describes how the norm of every weight matrix or kernel changes to within 1.2 % of its "
        "rate up to a learning rate of about 0.024, between the runs at 0.02 and 0.05." in first
    )
    assert "The equation of motion to order 1 describes" in first
    edge = (
        "lr × sharpness = 2, is first reached by the run at 0.3, seen at step 0; the largest value seen at 0.05 is 0.5."
    )
    assert edge in first
    assert "The sharpness was measured 10 times in each run" in first
    assert any("2 × 0.012 × |g| / |H g|" in sentence for sentence in others)
    assert any("expected 2, over 3 runs" in sentence for sentence in others)
    assert any("The last records are at times 0.9 to 27, and the errors of each" in sentence for sentence in others)


def test_other_models_data_and_starts_are_left_out_by_name(tmp_path, runs):
    hashes = manifest(LAYERS)["sha256"]
    for name in hashes:
        planted(tmp_path / f"other-{name}", 0.1, sha256=hashes | {name: "00" * 32})
    found = compare([*runs, *(tmp_path / f"other-{name}" for name in hashes)])
    assert len(found.readings) == 4
    assert {Path(k).name: why for k, why in found.others.items()} == {
        "other-model": "it has another model",
        "other-batch": "it has another first batch",
        "other-parameters": "it has other initial parameters",
    }
    page = found.report(tmp_path / "page.html").read_text()
    assert "it has another first batch" in page
    assert "Not compared" in page


def test_runs_from_another_start_are_compared_among_themselves(tmp_path, runs):
    hashes = manifest(LAYERS)["sha256"] | {"parameters": "00" * 32}
    seeds = [planted(tmp_path / f"{lr}-seed-1", lr, sha256=hashes) for lr in (0.02, 0.04)]
    alone = planted(tmp_path / "alone", 0.1, sha256=hashes | {"model": "00" * 32})
    found = compare([*runs, *seeds, alone])
    (other,) = found.repeats
    assert other.table().lr.tolist() == [0.02, 0.04]
    assert [Path(name).name for name in found.others] == ["alone"]
    said = "The largest rate for gradient flow within 1.2 % is 0.024 in these runs, and in the others,"
    assert any(sentence.startswith(said) for sentence in verdict(found, 0.012))
    assert "Runs that begin differently" in found.report(tmp_path / "page.html").read_text()
    assert "Runs that begin differently" not in compare(runs).report(tmp_path / "page.html").read_text()


def test_the_family_with_predictions_leads_and_the_other_ones_are_named(tmp_path):
    hashes = manifest(LAYERS)["sha256"] | {"model": "00" * 32}
    for lr in (0.1, 0.2, 0.4):
        planted(tmp_path / f"a-{lr}", lr, orders=0, sha256=hashes)
    for lr in (0.01, 0.02):
        planted(tmp_path / f"b-{lr}", lr)
    found = compare(tmp_path)
    assert found.names == ["b-0.01", "b-0.02"]
    said = "3 runs more, which begin with another model, are compared among themselves"
    assert any(sentence.startswith(said) for sentence in verdict(found, 0.012))


def test_runs_without_a_loss_or_a_sharpness_have_a_page_of_what_they_have(tmp_path, runs):
    for run in runs:
        table = run.path / "table.csv"
        kept = [row for row in table.read_text().splitlines() if ",loss," not in row and ",sharpness," not in row]
        table.write_text("\n".join(kept) + "\n")
    page = compare(runs).report(tmp_path / "page.html").read_text()
    assert "The runs on common time" in page
    assert "The runs on common steps" not in page


def test_rates_that_are_looked_ahead_are_said_to_be_so(tmp_path, runs):
    for lr in (0.1, 0.2):
        planted(tmp_path / "ahead" / f"lr-{lr}", lr, reference="look-ahead")
    said = "In 100 % of the records the run did not go on with steps like the record's own"
    assert any(sentence.startswith(said) for sentence in verdict(compare(tmp_path / "ahead"), 0.012))
    assert not any("look-ahead" in sentence for sentence in verdict(compare(runs), 0.012))


def test_other_settings_of_the_optimizer_are_named(tmp_path, runs):
    said = verdict(compare([*runs, planted(tmp_path / "decayed", 0.05, decay=0.5)]), 0.012)
    assert any("differ in weight_decay (0.0, 0.5)" in sentence for sentence in said)
    assert not any("differ in" in sentence for sentence in verdict(compare(runs), 0.012))


@pytest.mark.parametrize("name", ["manifest.json", "table.csv"])
def test_a_damaged_run_is_left_out_by_name(tmp_path, runs, name):
    (runs[0].path / name).write_text("step,nothing\n1,2\n")
    found = compare(tmp_path)
    assert len(found.readings) == 3
    (why,) = found.others.values()
    assert why.startswith("it cannot be read: ")


@pytest.mark.parametrize("entry", [{"sha256": 5}, {"settings": "x"}, {"groups": 5}, {"steps": [1]}])
def test_a_manifest_with_other_entries_is_a_damaged_one(tmp_path, runs, entry):
    path = runs[0].path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    (why,) = compare(tmp_path).others.values()
    assert next(iter(entry)) in why


@pytest.mark.parametrize("wanted", [None, "a"])
def test_a_wanted_error_that_is_no_number_is_refused(runs, wanted):
    with pytest.raises(SettingError, match="the wanted error is"):
        compare(runs).largest(wanted)


def test_a_page_takes_the_place_of_pages_only(runs):
    manifest = runs[0].path / "manifest.json"
    before = manifest.read_bytes()
    with pytest.raises(FolderNotWritableError, match="is there already and no page"):
        compare(runs).report(manifest)
    assert manifest.read_bytes() == before


def test_nothing_to_compare_is_said(tmp_path, runs):
    other = planted(tmp_path / "other", 0.1, sha256={"model": "1", "batch": "2", "parameters": "3"})
    with pytest.raises(SettingError, match=r"two runs or more that begin alike, came .*another model and another"):
        compare([runs[0], other])
    with pytest.raises(SettingError, match="came 1 run"):
        compare([runs[0], runs[0].path])  # the same twice
    with pytest.raises(SettingError, match="came 0 runs"):
        compare([])
    with pytest.raises(NotARunError):
        compare([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARunError, match="holds no run"):
        compare(tmp_path / "empty")


@pytest.mark.parametrize("given", [None, b"runs", 3, [None], [b"runs"]])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(SettingError, match=r"run is a (NoneType|bytes|int), expected the folder of a run"):
        compare(given)


def test_a_folder_stands_for_the_runs_in_it(tmp_path, runs):
    assert len(compare(tmp_path).readings) == 4
    assert len(compare(str(tmp_path)).readings) == 4


def test_runs_of_other_lengths_and_a_schedule_take_part_as_far_as_they_can(tmp_path, runs):
    planted(tmp_path / "short", 0.04, steps=20, end="the training ended with ValueError at step 20: mine")
    planted(tmp_path / "falling", 0.03, schedule=lambda step: 0.03 if step < 50 else 0.003)
    planted(tmp_path / "momentum", 0.02)
    found = compare(tmp_path)
    assert found.pooled()["order-0"].runs == 6
    assert found.pooled()["order-0"].slope == pytest.approx(1, abs=0.02)
    text = "\n".join(verdict(found, 0.01))
    assert "20 to 100 steps each" in text
    assert "1 run did not come to the end. short: the training ended with ValueError at step 20: mine." in text
    assert "The learning rate changed during falling" in text
    assert found.largest(0.012)["order-0"].seen.value == pytest.approx(0.024)


def test_runs_without_predictions_or_sharpness_are_compared_by_what_they_have(tmp_path):
    torch.manual_seed(0)
    batch = torch.randn(20, 3)
    start = nn.Linear(3, 1).state_dict()
    for lr in (0.1, 0.2):
        model = nn.Linear(3, 1)
        model.load_state_dict(start)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        with eom.track(model, optimizer, lambda m, b: m(b).square().mean(), tmp_path / f"lr-{lr}", every=5) as tracker:
            for _ in range(20):
                optimizer.zero_grad()
                tracker.loss(batch).backward()
                optimizer.step()
    found = eom.compare(tmp_path)
    text = "\n".join(verdict(found, 0.01))
    assert "The sharpness was not recorded" in text or "No run was seen at the edge" in text
    assert "Without predictions, so compared by what was measured only: lr-0.1, lr-0.2" in text
    assert "How the errors grow with the learning rate is not known" in text
    assert found.report(tmp_path).read_text().count("<svg") == 2


@pytest.mark.parametrize("wanted", [0, -0.1, float("nan"), float("inf")])
def test_a_wanted_error_that_is_no_share_is_refused(runs, wanted):
    with pytest.raises(SettingError, match="the wanted error is"):
        compare(runs).largest(wanted)


def test_a_page_that_cannot_be_written(tmp_path, runs):
    with pytest.raises(FolderNotWritableError, match="no page can be written"):
        compare(runs).report(tmp_path / "no" / "such" / "folder.html")


def test_the_command_prints_the_summary_and_writes_the_page(tmp_path, runs):
    done = CliRunner().invoke(app, ["compare", *(str(run.path) for run in runs), "--out", str(tmp_path / "c.html")])
    assert done.exit_code == 0, done.output
    assert "4 runs of one model" in done.output
    assert (tmp_path / "c.html").read_text().count("<svg") == 3


def points(slope: float, noise: float, runs: int, seed: int, places: int = 8) -> pd.DataFrame:
    """Errors at common times, with a level for each time and a deviation for each run."""
    generator = np.random.default_rng(seed)
    lr = np.geomspace(0.01, 0.1, runs)
    off = generator.normal(scale=noise, size=runs)
    rows = [
        (k, float(t), lr[k], "g", np.exp(np.sin(t) + slope * np.log(lr[k]) + off[k]))
        for k in range(runs)
        for t in range(places)
        if (k + t) % 4  # not every run has every time
    ]
    return pd.DataFrame(rows, columns=["run", "time", "lr", "group", "error"])


def test_the_interval_holds_the_slope_about_as_often_as_it_says():
    """Whole runs deviate, as they do: that times of one run err alike must not make the interval small."""
    fits = [slope(points(2.0, 0.2, 6, seed)) for seed in range(300)]
    assert 0.90 <= np.mean([fit.low <= 2.0 <= fit.high for fit in fits]) <= 0.995
    assert np.mean([fit.slope for fit in fits]) == pytest.approx(2.0, abs=0.03)


def test_two_runs_have_a_slope_without_an_interval_and_one_rate_has_none():
    two = slope(points(1.0, 0.0, 2, 0))
    assert two.slope == pytest.approx(1.0, abs=1e-9)
    assert np.isnan(two.low)
    assert np.isnan(slope(points(1.0, 0.0, 3, 0).assign(lr=0.1)).slope)


def test_errors_between_records_of_other_sign_or_below_the_bar_do_not_count():
    rows = pd.DataFrame({"time": [0.0, 1.0, 2.0, 3.0], "lr": 0.1, "error": [1.0, 2.0, -1.0, -3.0]})
    at = np.array([0.5, 1.5, 2.5, 3.0])
    times, lr, error = interpolated(rows.assign(counts=True), at)
    assert times.tolist() == [0.5, 2.5, 3.0]
    assert error.tolist() == pytest.approx([2**0.5, 3**0.5, 3.0])
    assert lr.tolist() == pytest.approx([0.1] * 3)
    assert interpolated(rows.assign(counts=[True, False, True, True]), at)[0].tolist() == [2.5, 3.0]


def test_one_step_of_gradient_flow_stays_within_an_error_up_to_the_rate_of_theory(tmp_path):
    """lr = sqrt(2 eps / |H g|): against the step and the flow themselves, on a quadratic with known H."""
    curvature = torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)

    def loss_fn(model, batch):
        return (curvature * model.weight**2).sum() / 2 + 0 * batch.sum()

    shares = []
    for lr in (0.01, 0.02):
        model = nn.Linear(3, 1, bias=False).double()
        nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        with eom.track(model, optimizer, loss_fn, tmp_path / f"lr-{lr}", every=1) as tracker:
            for _ in range(8):
                optimizer.zero_grad()
                tracker.loss(torch.ones(1, dtype=torch.float64)).backward()
                optimizer.step()
        rows = tracker.run.table()
        first = rows.loc[(rows.quantity == "step_error") & (rows.step == 0)]
        assert first.source.tolist() == ["order-0"]
        step = -lr * curvature
        shares.append(float((torch.expm1(step) - step).norm() / step.norm()))
        assert first.value.iloc[0] == pytest.approx(shares[-1], rel=lr * 3)  # to the next order
        assert first.value.iloc[0] == pytest.approx(lr * float((curvature**2).norm() / curvature.norm()) / 2)
    frame = pd.DataFrame({"lr": [0.01, 0.02], "source": "order-0", "error": 1e-3, "bar": 1e-3, "step": shares})
    assert largest(frame, "order-0", 2**0.5 * shares[0]).step.value == pytest.approx(0.01 * 2**0.5, rel=0.01)


def test_a_crossing_lies_between_the_runs_around_it():
    shares = pd.DataFrame({"lr": [0.01, 0.1, 1.0], "error": [1e-4, 1e-2, 1.0]})
    for wanted, (low, high) in zip((3e-4, 0.3), pairwise(shares.lr), strict=True):
        assert low < crossing(shares, "error", wanted).value < high
    assert crossing(shares, "error", 1e-3).value == pytest.approx(0.01 * 10**0.5)
    assert np.isnan(crossing(shares.assign(error=np.nan), "error", 0.1).value)


def test_a_comparison_is_what_eom_compare_returns(runs):
    assert isinstance(eom.compare(runs), Comparison)
