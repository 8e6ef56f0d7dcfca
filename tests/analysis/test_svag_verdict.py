"""What is said of SVAG's runs follows from planted means."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import planted
from scipy.stats import norm, t

from eom.analysis.svag import Svag, difference, read, wider
from eom.errors import SettingError
from eom.records import open_run


def made(
    folder: Path, shift: float, scatter: float, seeds: int = 8, generator: np.random.Generator | None = None
) -> Svag:
    """Runs whose losses fall from 1 to 0, with a ``shift`` of SGD's and a ``scatter`` over seeds in shares of that.

    Seeds lie at the quantiles of a normal law, so that nothing is left to luck; drawn, where a ``generator`` is given.
    """
    runs, quantiles = {}, norm.ppf((np.arange(seeds) + 0.5) / seeds)
    for level in (1, 2):
        runs[level] = []
        for seed in range(seeds):
            run = planted(folder / f"l-{level}-{seed}", 0.1 / level, steps=20 * level, every=2 * level, orders=0)
            drawn = generator.normal() if generator else quantiles[seed]
            off = shift * (level == 1) + scatter * float(drawn)
            with (run.path / "table.csv").open("a") as file:
                for k in range(10):
                    value = 1 - k / 10 + off * k / 10
                    file.write(f"{2 * level * k},{0.2 * k!r},all,whole_loss,measured,{value!r},\n")
            runs[level].append(open_run(run.path))
    return read(runs, folder)


@pytest.mark.parametrize(
    ("shift", "scatter", "verdict", "sentence"),
    [
        (0.01, 0.01, "credible", "The view of SGD as a stochastic equation is credible for this training at learning"),
        (
            0.2,
            0.01,
            "not credible",
            ".* is not credible for this training .*: the loss of SGD differs",
        ),
        (0.01, 0.2, "open", "Whether the view of SGD .* is open: the loss of SGD differs"),
    ],
)
def test_the_verdict_follows_the_difference_and_its_interval(tmp_path, shift, scatter, verdict, sentence):
    found = made(tmp_path, shift, scatter)
    assert found.verdict == verdict

    assert re.match(sentence, found.sentences()[0])
    row = found.table().loc[lambda t: t.quantity == "whole_loss"].iloc[0]
    if shift > scatter:
        assert row.difference == pytest.approx(shift, rel=0.15)


def test_intervals_hold_no_difference_about_as_often_as_they_say(tmp_path):
    """Where 5 % of the change is allowed, of equal laws one in twenty at most is called different."""
    generator = np.random.default_rng(0)
    said = [made(tmp_path / str(k), 0.0, 0.2, seeds=4, generator=generator).verdict for k in range(20)]
    assert said.count("not credible") <= 2
    assert said.count("credible") == 0


def test_equal_laws_are_seldom_called_different_at_any_of_many_times():
    """Means of normal numbers, fresh for each of 5 quantities at 50 times: one family of runs in twenty."""
    generator, said = np.random.default_rng(1), []
    for _ in range(200):
        draws = 0.3 * generator.normal(size=(2, 8, 250))
        rows = pd.DataFrame({"quantity": "loss", "group": "all", "scale": 1.0, "time": np.arange(250)})
        for name, own in zip(("", "_fine"), draws, strict=True):
            rows["mean" + name] = own.mean(0)
            rows["bar" + name] = t.ppf(0.975, 7) * own.std(0, ddof=1) / 8**0.5
        said.append(difference(rows, 0.05, wider(250, 8))["verdict"])
    assert said.count("differs") <= 10 + 2 * 3


@pytest.mark.parametrize(
    ("lost", "verdict", "sentence"),
    [
        ({1: 9, 2: 0}, "not credible", "Trainings broke off, so that it is not credible: 9 of 17 runs with l = 1."),
        ({1: 1, 2: 1}, "open", "so that nothing is sure: 1 of 9 runs with l = 1, 1 of 9 runs with l = 2."),
    ],
)
def test_runs_that_diverged_count_too(tmp_path, lost, verdict, sentence):
    found = replace(made(tmp_path, 0.01, 0.01), lost=lost)
    assert found.verdict == verdict
    assert sentence in found.sentences()[0]


def test_what_does_not_change_says_nothing(tmp_path):
    found = made(tmp_path, 0.0, 0.01)
    assert len(found.differences)
    still = Svag({k: v for k, v in found.runs.items()}, tmp_path)
    object.__setattr__(still, "means", found.means.assign(mean=lambda m: m.start))
    assert still.verdict == "open"
    assert still.sentences() == [
        "Whether the view of SGD as a stochastic equation is credible for this training at learning rate 0.1, over 8 "
        "seeds is open: neither the loss nor any norm changed."
    ]


def test_a_loss_that_grows_is_said(tmp_path):
    found = made(tmp_path, -30.0, 0.01)
    assert "The loss of SGD grows from 1 to" not in found.sentences()[0]
    found = made(tmp_path / "up", 30.0, 0.01)
    assert "The loss of SGD grows from 1 to 27.1: the learning rate is too large" in found.sentences()[0]


def test_too_few_whole_runs_are_refused(tmp_path):
    found = made(tmp_path, 0.0, 0.1, seeds=3)
    paths = {level: [r.path for r in own] for level, own in found.runs.items()}
    with pytest.raises(SettingError, match="2 runs of l = 1 came to the end, expected 3 or more"):
        read({1: paths[1][:2], 2: paths[2]}, tmp_path)
