"""SVAG on a user's training: l = 1 is SGD, and what is said of it follows from planted means."""

from pathlib import Path

import pytest
import setups
import torch

import eom
from eom.analysis.svag import Svag
from eom.errors import DataError, SettingError
from eom.stochastic import gradient_noise
from eom.sweeps.svag import Pairs, spacing, svag


def small(folder: Path, **settings) -> Svag:
    given = {"batch_size": 10, "seeds": range(3), "every": 3, "jobs": 1, "threads": 1} | settings
    return svag(setups.plain, 0.3, 12, out=folder / "svag", **given)


def test_the_runs_of_l_1_are_sgd_on_random_batches_from_one_start(tmp_path):
    found = small(tmp_path)
    assert sorted(found.runs) == [1, 2, 4]
    assert [len(found.runs[level]) for level in (1, 2, 4)] == [3, 3, 3]
    starts = {r.manifest["sha256"]["parameters"] for own in found.runs.values() for r in own}
    assert len(starts) == 1
    torch.manual_seed(0)
    model, loss_fn, data = setups.plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    pairs = iter(Pairs(data, 10, seed=1))
    for _ in range(12):
        optimizer.zero_grad()
        loss_fn(model, next(pairs)[0]).backward()
        optimizer.step()
    squares = sum(float(p.square().sum()) for p in model.parameters())
    whole = float(loss_fn(model, data))
    table = found.runs[1][1].table()
    last = table.loc[(table.step == 12) & (table.group == "all")].set_index("quantity").value
    assert last["norm_squared"] == pytest.approx(squares, rel=1e-12)
    assert last["whole_loss"] == pytest.approx(whole, rel=1e-12)


def test_refined_runs_reach_the_same_times_and_the_noise_of_their_gradients_grows_as_l(tmp_path):
    found = small(tmp_path)
    for level in (1, 2, 4):
        table = found.runs[level][0].table()
        assert table.step.max() == 12 * level
        assert table.time.max() == pytest.approx(3.6)
    page = found.report().read_text("utf-8")
    assert "SGD as a stochastic equation" in page
    assert "<svg" in page
    assert set(found.table().quantity) == {"whole_loss", "norm_squared"}
    assert set(found.table().group) == {"all", "0.weight", "2.weight"}


def test_it_goes_on_where_it_was_stopped(tmp_path):
    first = small(tmp_path, refinements=(1, 2))
    marks = [(r.path / "table.csv").stat().st_ino for r in first.runs[1]]
    again = small(tmp_path, refinements=(1, 2, 3))
    assert [(r.path / "table.csv").stat().st_ino for r in again.runs[1]] == marks
    assert sorted(again.runs) == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"refinements": (2, 4)}, SettingError, r"refinements is \[2, 4\], expected 1 \(SGD itself\)"),
        ({"refinements": (1,)}, SettingError, "expected 1 .SGD itself. and one or more others"),
        ({"refinements": (1, 0)}, SettingError, "refinements holds 0"),
        ({"seeds": (0, 1)}, SettingError, r"seeds is \[0, 1\], expected 3 or more"),
        ({"seeds": 3}, SettingError, "seeds is 3, expected 3 or more"),
        ({"optimizers": {"adam": torch.optim.Adam}}, SettingError, "svag trains by plain SGD"),
        ({"batch_size": 61}, DataError, "the data is of 60 samples, expected one batch of 61 samples or more"),
        ({"batch_size": 0}, SettingError, "batch_size holds 0"),
        ({"every": 0}, SettingError, "every holds 0"),
        ({"every": 5}, SettingError, "every is 5 and steps 12, expected a smaller divisor"),
        ({"every": 12}, SettingError, "every is 12 and steps 12, expected a smaller divisor"),
        ({"wanted": -1}, SettingError, "the wanted error is -1"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tmp_path, settings, error, complaint):
    with pytest.raises(error, match=complaint):
        small(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_quantities_of_the_users_own_stand_beside_the_loss(tmp_path):
    found = small(tmp_path, quantities=[gradient_noise(probes=0)])
    assert set(found.table().quantity) == {"whole_loss", "norm_squared"}
    assert "gradient_noise" in set(found.runs[1][0].table().quantity)


@pytest.mark.parametrize(("steps", "every"), [(200, 10), (12, 1), (60, 3), (101, 1), (1000, 50), (2, 1)])
def test_records_are_at_some_twenty_times_and_at_the_end(steps, every):
    assert spacing(steps) == every


def test_data_in_several_batches_is_refused(tmp_path):
    with pytest.raises(DataError, match="the data is not one batch"):
        svag(setups.batches, 0.1, 5, batch_size=5, out=tmp_path)


def test_the_name_stands_with_the_other_stochastic_ones():
    assert eom.stochastic.svag is svag
