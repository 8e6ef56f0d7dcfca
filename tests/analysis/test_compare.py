"""Runs of different learning rates beside each other: planted laws are found, and what cannot be compared is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import LAYERS, planted
from synthetic import manifest
from torch import nn
from typer.testing import CliRunner

import eom
from eom.analysis.compare import Comparison, compare
from eom.analysis.verdict import verdict
from eom.cli import app
from eom.errors import FolderNotWritableError, NotARunError, SettingError


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


def test_the_summary_answers_in_words(runs):
    first, *others = verdict(compare(runs), 0.012)
    assert "4 runs of one model from the same start, at learning rates 0.01 to 0.3, 100 steps each." in first
    assert (
        "Gradient flow describes how the norm of every weight matrix or kernel changes to within 1.2 % of its "
        "rate up to a learning rate of about 0.024, between the runs at 0.02 and 0.05." in first
    )
    assert "The equation of motion to order 1 describes" in first
    edge = "lr × sharpness = 2, is reached from the rate 0.3 on, seen there at step 0; the largest value seen at 0.05"
    assert f"{edge} is 0.5." in first
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


def test_a_comparison_is_what_eom_compare_returns(runs):
    assert isinstance(eom.compare(runs), Comparison)


def test_runs_with_other_settings_of_the_optimizer_are_another_family(tmp_path, runs):
    found = compare([*runs, planted(tmp_path / "decayed", 0.05, decay=0.5)])
    assert list(found.others.values()) == ["it has other settings of the optimizer (weight_decay 0.5)"]
    assert len(found.readings) == 4
    whole = compare([*runs, planted(tmp_path / "whole", 0.04, decay=0)])  # 0 and 0.0 are one setting
    assert len(whole.readings) == 5


def test_a_run_of_a_schedule_stands_at_its_largest_rate_and_out_of_the_sentence(tmp_path):
    """Also alone beside one run of one rate: what that one keeps is said of it alone."""
    planted(tmp_path / "steady", 0.05)
    planted(tmp_path / "warm-up", 0.01, schedule=lambda step: 0.01 if step < 50 else 0.2)
    found = compare(tmp_path)
    assert found.table().lr.tolist() == [0.05, 0.2]
    first = verdict(found, 0.1)[0]
    assert "at 0.05, the one rate that it can be judged at: its error is 2.5 %" in first
    assert "not at 0.05, the one rate that it can be judged at" in verdict(found, 0.001)[0]


def test_an_order_that_few_runs_were_predicted_to_is_said_of_those(tmp_path):
    for lr in (0.01, 0.02):
        planted(tmp_path / f"flow-{lr}", lr, orders=1)
    for lr in (0.03, 0.04):
        planted(tmp_path / f"both-{lr}", lr)
    first = verdict(compare(tmp_path), 0.1)[0]
    assert "to order 1 describes" in first
    assert "at every one of the 2 rates it can be judged at: its error is 0.32 % at the largest, 0.04" in first


def test_a_run_that_exploded_is_named_keeps_no_error_and_leaves_the_scale(tmp_path):
    for lr in (0.01, 0.02, 0.04):
        planted(tmp_path / f"lr-{lr}", lr)
    planted(tmp_path / "lr-0.1", 0.1, blown=True)
    found = compare(tmp_path)
    first = verdict(found, 0.9)[0]
    assert "lr-0.1 exploded: no error of a prediction is stated there" in first
    assert found.largest(0.9)["order-0"].seen == (0.04, ">")
    assert "at every one of the 3 rates it can be judged at: its error is 2 % at the largest, 0.04" in first
    assert "Runs that exploded leave the scale" in found.report(tmp_path).read_text()


def test_the_largest_sharpness_below_the_edge_is_that_of_all_runs_at_the_rate(tmp_path):
    for name, lr in (("a", 0.05), ("b", 0.05), ("c", 0.3)):
        planted(tmp_path / name, lr, sharpness=12.0 if name == "a" else 10.0)
    assert "the largest value seen at 0.05 is 0.6" in verdict(compare(tmp_path), 0.01)[0]


def test_a_run_of_a_sweep_that_failed_before_its_first_record_is_on_the_page(tmp_path, runs):
    (tmp_path / "sweep.json").write_text(json.dumps({"failed": {"lr-9.0": "MemoryError: no room", "lr-0.3": "late"}}))
    found = compare(tmp_path)
    assert found.others == {"lr-9.0": "MemoryError: no room"}
    assert "lr-9.0: MemoryError: no room" in found.report(tmp_path).read_text()
    assert not compare([run.path for run in runs]).others


def test_look_aheads_at_the_end_of_a_run_are_no_mini_batches(tmp_path):
    for lr in (0.1, 0.2):
        planted(tmp_path / f"lr-{lr}", lr, steps=91, last="look-ahead")
    assert not any("look-ahead" in sentence for sentence in verdict(compare(tmp_path), 0.012))


def test_runs_of_another_loss_function_or_other_frozen_weights_are_left_out(tmp_path, runs):
    """Alike in every name: their loss at the start tells them apart, or the hash of what is not trained."""
    planted(tmp_path / "doubled", 0.04, scale=2.0)
    hashes = manifest(LAYERS)["sha256"] | {"constants": "11" * 32}
    planted(tmp_path / "frozen", 0.04, sha256=hashes)
    others = compare(tmp_path).others
    assert others[str(tmp_path / "doubled")] == "it has another loss function, 2 at the start where it is 1"
    assert others[str(tmp_path / "frozen")] == "it has other frozen parameters or buffers"


def test_errors_below_the_measurements_bar_do_not_count(tmp_path, runs):
    """As at a rate so small that rounding is all that is left of its error."""
    planted(tmp_path / "tiny", 1e-5, resolution=0.1)
    found = compare(tmp_path)
    assert np.isnan(found.table()["order-0"].iloc[0])
    assert found.largest(0.012)["order-0"].seen == (pytest.approx(0.024), "")


def test_tables_with_rows_twice_are_read(tmp_path, runs):
    table = runs[0].path / "table.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, *lines[1:5]]) + "\n")
    assert len(compare(tmp_path).readings) == 4


def test_other_families_are_named_with_their_rates(tmp_path, runs):
    other = {"model": "cd" * 32, "batch": "99" * 32, "parameters": "ab" * 32}
    for lr in (0.01, 0.1):
        planted(tmp_path / f"half-{lr}", lr, sha256=other, data={"samples": 900, "batches": 1})
    said = verdict(compare(tmp_path), 0.012)
    assert "4 runs of 6, those that begin like lr-0.01, of one model" in said[0]
    assert any("begin with another first batch (of 900 samples)" in sentence for sentence in said)
    assert any("0.024 (half-0.01 and its kin)" in sentence for sentence in said)
