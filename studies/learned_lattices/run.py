"""Which models learn KdV and Cahn-Hilliard, from data by an accurate solver and by an energy-keeping scheme?"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import joblib
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

from eom import physics
from eom.physics import DataSet, LearnedSystem, Trajectories, data_sets


class Setting(NamedTuple):
    """A data set, the length of a cell, units of values, of steps between neighbours and of rates; rcond."""

    drawn: DataSet
    cell: float
    unit: float
    step: float
    rate: float
    rcond: float


SETTINGS = {
    "KdV": Setting(data_sets.solitons(), 0.2, 64.0, 16.0, 30.0, 1e-8),
    "Cahn-Hilliard": Setting(data_sets.separations(), 0.02, 1.0, 0.2, 50.0, 1e-9),
}
TRAINED, TESTED, PAIRS, WIDTH, SMALL_WIDTH = 60, 3, 120, 200, 60
SCHEME = "energy-keeping scheme"
SUBSTEPS = 4  # of Runge-Kutta, which Cahn-Hilliard needs to be stable


class Local(nn.Module):
    """u' at a place from the seven values around it: a neural ODE that knows of the grid."""

    def __init__(self, setting: Setting, width: int):
        super().__init__()
        self.setting = setting
        self.last = nn.Linear(width, 1)
        self.net = nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), self.last)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        near = [(u.roll(-k, -1) - u) / self.setting.step for k in (-3, -2, -1, 1, 2, 3)]
        around = torch.stack([u / self.setting.unit, *near], -1)
        return self.setting.rate * self.net(around)[..., 0]


def energy(setting: Setting, width: int) -> physics.GridEnergy:
    size = setting.drawn.system.size
    return physics.GridEnergy((size,), width, cell=setting.cell, unit=setting.unit, step=setting.step)


def plain(setting: Setting, width: int) -> tuple[LearnedSystem, nn.Linear]:
    net = Local(setting, width)
    field = physics.PlainField(net)
    return LearnedSystem(setting.drawn.system.size, field, physics.midpoint, physics.RK4()), net.last


def energy_gradient(setting: Setting, width: int) -> tuple[LearnedSystem, nn.Linear]:
    """The same energy and structure as the discrete gradient's, by its gradient at midpoints."""
    net = energy(setting, width)
    field = physics.EnergyField(net, setting.drawn.system.structure)
    return LearnedSystem(setting.drawn.system.size, field, physics.midpoint, physics.RK4()), net.last


def discrete_gradient(setting: Setting, width: int) -> tuple[LearnedSystem, nn.Linear]:
    net = energy(setting, width)
    model = physics.energy_model(setting.drawn.system.size, net, setting.drawn.system.structure)
    model.stepper = physics.DiscreteGradient(rtol=1e-11)
    return model, net.last


MODELS: dict[str, Callable[[Setting, int], tuple[LearnedSystem, nn.Linear]]] = {
    "neural ODE": plain,
    "energy gradient": energy_gradient,
    "discrete gradient": discrete_gradient,
}


def data(name: str, by_scheme: bool, seed: int, tested: int, steps: int) -> tuple[Trajectories, Trajectories]:
    """Pairs of states to learn from, and solutions to predict."""
    drawn = replace(SETTINGS[name].drawn, times=SETTINGS[name].drawn.times[: steps + 1])
    torch.manual_seed(seed)
    window = drawn.draw(TRAINED if tested == TESTED else 2, seed, by_scheme=by_scheme).windows()
    chosen = window.rows(torch.randint(len(window.u), (PAIRS,)))
    return Trajectories(chosen.t, chosen.u), drawn.draw(tested, seed + 1000, by_scheme=by_scheme)


def rows(
    name: str, kinds: list[str], by_scheme: bool, seed: int, tested: int, steps: int, width: int
) -> list[dict[str, object]]:
    """Of the table: hidden layers as they are drawn, the last one by least squares on pairs of states."""
    torch.set_num_threads(1)
    setting, (pairs, test) = SETTINGS[name], data(name, by_scheme, seed, tested, steps)
    found, random = [], torch.get_rng_state()
    for kind in kinds:
        torch.set_rng_state(random)
        model, last = MODELS[kind](setting, width)
        model = model.double()
        physics.solve_linear(model, pairs, [last.weight], rcond=setting.rcond)
        substeps = 1 if kind == "discrete gradient" else SUBSTEPS
        scores = physics.evaluate(model, setting.drawn.system, test, substeps=substeps)
        data_by = SCHEME if by_scheme else "accurate solver"
        found.append({"system": name, "data by": data_by, "model": kind, "seed": seed, **scores._asdict()})
    return found


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """Medians over seeds of errors.

    Rows are written to ``out``, if given, as they come; those that are there already are not made again.
    """
    made: list[dict] = pd.read_csv(out).to_dict("records") if out and out.exists() else []
    there = {(row["system"], row["data by"] == SCHEME, row["seed"], row["model"]) for row in made}
    jobs = (
        [("KdV", False, 0)] if small else [(n, s, seed) for s in (False, True) for seed in range(5) for n in SETTINGS]
    )
    sizes = (2, 10, SMALL_WIDTH) if small else (TESTED, 500, WIDTH)
    kinds = [kind for kind in MODELS if not small or kind != "neural ODE"]
    left = {job: [kind for kind in kinds if (*job, kind) not in there] for job in jobs}
    work = joblib.Parallel(n_jobs=1 if small else 2, return_as="generator_unordered")(
        joblib.delayed(rows)(job[0], models, *job[1:], *sizes) for job, models in left.items() if models
    )
    for new in work:
        made += new  # type: ignore[operator] - joblib is untyped
        if out:
            pd.DataFrame(made).to_csv(out, index=False)
    frame = pd.DataFrame(made).melt(["system", "data by", "model"], ["derivative", "energy", "state", "drift"])
    medians = frame.dropna().groupby(["system", "data by", "model", "variable"], sort=False).value.median()
    return {f"{n}, data by an {d}: {v} of {m}": float(x) for (n, d, m, v), x in medians.items()}  # type: ignore[misc] - pandas types keys as hashables


if __name__ == "__main__":
    answer(__doc__, main, "CSV of all rows")
