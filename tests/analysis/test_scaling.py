"""Slopes with honest intervals, and the rates at which errors pass what is wanted."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import eom
from eom.analysis.scaling import crossing, interpolated, largest, slope


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


def test_the_rate_by_one_step_rises_with_the_wanted_error_and_ends_with_the_runs():
    """Also where the last run, at the edge of stability, is far off the law of the others."""
    lr, share = [0.01, 0.1, 1.0], [0.01, 0.1, 50.0]
    shares = pd.DataFrame({"source": "order-0", "lr": lr, "step": share, "error": np.nan, "bar": np.nan})
    found = [largest(shares, "order-0", wanted).step for wanted in (0.001, 0.01, 0.05, 0.1, 1, 100)]
    assert [rate.value for rate in found[:4]] == pytest.approx([0.01, 0.01, 0.05, 0.1])
    assert 0.1 < found[4].value < 1
    assert [rate.bound for rate in found] == ["<", "", "", "", "", ">"]
    assert found[5].value == 1
