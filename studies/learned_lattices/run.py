"""Which models learn KdV and Cahn-Hilliard, from data by an accurate solver and by an energy-keeping scheme?"""

import sys
from collections.abc import Callable
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
    """A data set, the length of a cell, a typical size of values and of rates."""

    drawn: DataSet
    cell: float
    unit: float
    rate: float


SETTINGS = {
    "KdV": Setting(data_sets.solitons(), 0.2, 4.0, 30.0),
    "Cahn-Hilliard": Setting(data_sets.separations(), 0.02, 1.0, 50.0),
}
TRAINED, TESTED, PAIRS, CHANNELS = 20, 5, 200, 24


class Local(nn.Module):
    """u' at a place from the seven values around it: a neural ODE that knows of the grid."""

    def __init__(self, channels: int, unit: float, rate: float):
        super().__init__()
        self.unit, self.rate = unit, rate
        self.net = nn.Sequential(
            nn.Conv1d(1, channels, 7, padding=3, padding_mode="circular"), nn.Tanh(),
            nn.Conv1d(channels, channels, 1), nn.Tanh(), nn.Conv1d(channels, 1, 1),
        )  # fmt: skip

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.rate * self.net(u[:, None] / self.unit)[:, 0]


def energy(setting: Setting) -> nn.Module:
    size = setting.drawn.system.size
    return physics.GridEnergy((size,), CHANNELS, cell=setting.cell, unit=setting.unit)


def neural_ode(setting: Setting) -> LearnedSystem:
    field = physics.PlainField(Local(CHANNELS, setting.unit, setting.rate))
    return LearnedSystem(setting.drawn.system.size, field, physics.Shooting(physics.RK4(), 2), physics.Adaptive())


def energy_gradient(setting: Setting) -> LearnedSystem:
    """Of the same energy, by Runge-Kutta steps."""
    field = physics.EnergyField(energy(setting), setting.drawn.system.structure)
    return LearnedSystem(setting.drawn.system.size, field, physics.Shooting(physics.RK4(), 2), physics.Adaptive())


def discrete_gradient(setting: Setting) -> LearnedSystem:
    return physics.energy_model(setting.drawn.system.size, energy(setting), setting.drawn.system.structure)


def kernel_learned(setting: Setting) -> LearnedSystem:
    """The structure learned too: skew, or symmetric and negative, by construction."""
    size = setting.drawn.system.size
    if setting.drawn.system.dissipates:
        structure = physics.DissipativeKernel((size,), scale=setting.cell**-3)
    else:
        structure = physics.SkewKernel((size,), scale=setting.cell**-2)
    return physics.energy_model(size, energy(setting), structure)


MODELS: dict[str, Callable[[Setting], LearnedSystem]] = {
    "neural ODE": neural_ode,
    "energy gradient, Runge-Kutta steps": energy_gradient,
    "discrete gradient": discrete_gradient,
    "discrete gradient, structure learned": kernel_learned,
}


def one(
    name: str, kind: str, by_scheme: bool, seed: int, rounds: int, pairs: int = PAIRS, tested: int = TESTED
) -> dict:
    """A row of the table: LBFGS in float64, ``rounds`` of 100 iterations, on pairs of states drawn from all times."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    setting = SETTINGS[name]
    drawn = setting.drawn
    window = drawn.draw(TRAINED, seed, by_scheme=by_scheme).windows()
    window = window.rows(torch.randint(len(window.u), (pairs,)))
    data = Trajectories(window.t, window.u)
    model = MODELS[kind](setting).double()
    physics.fit(model, data, optimizer=torch.optim.Adam(model.parameters(), 1e-2), steps=100)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, history_size=100, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )
    physics.fit(model, data, optimizer=optimizer, steps=rounds)
    test = drawn.draw(tested, seed + 1000, by_scheme=by_scheme)
    scores = physics.evaluate(model, drawn.system, test)
    data_by = "energy-keeping scheme" if by_scheme else "accurate solver"
    return {"system": name, "data by": data_by, "model": kind, "seed": seed, **scores._asdict()}


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """Medians over seeds of errors; all rows are written to ``out`` if given."""
    jobs = (
        [("KdV", kind, False, 0, 1, 20, 1) for kind in ("neural ODE", "discrete gradient")]
        if small
        else [(n, k, s, seed, 20) for seed in range(5) for n in SETTINGS for s in (False, True) for k in MODELS]
    )
    rows = []
    for row in joblib.Parallel(n_jobs=1 if small else 2, return_as="generator_unordered")(
        joblib.delayed(one)(*job) for job in jobs
    ):
        rows.append(row)
        if out:
            pd.DataFrame(rows).to_csv(out, index=False)
    frame = pd.DataFrame(rows).melt(["system", "data by", "model"], ["derivative", "energy", "state", "drift"])
    medians = frame.groupby(["system", "data by", "model", "variable"], sort=False).value.median()
    return {f"{n}, data by an {d}: {v} of {m}": float(x) for (n, d, m, v), x in medians.items()}  # type: ignore[misc]


if __name__ == "__main__":
    answer(__doc__, main, "CSV of all rows")
