"""Does a Hamiltonian of latents keep the energy of a pendulum that is known by its pixels, and a plain field not?"""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

from eom.analysis.curves import Look, courses
from eom.analysis.drawing import standalone
from eom.dynamics.runge_kutta import RK4
from eom.physics import (
    Film,
    LearnedSystem,
    PlainField,
    Shooting,
    Trajectories,
    dense,
    energy_model,
    film_angle,
    film_energy,
    film_of,
    fit,
    frame_pairs,
    latent_model,
    pendulum,
    pendulum_film,
    principal_coding,
)

PERIOD = 2 * math.pi / math.sqrt(6)  # of small swings
SPAN = 43  # frames, two periods
MODELS = {
    "Hamiltonian": lambda width: energy_model(2, dense(2, 1, width)),
    "plain": lambda width: LearnedSystem(2, PlainField(dense(2, 2, width)), Shooting(RK4()), RK4()),
}


def errors(name: str, seen: Film, film: Film, seed: int, *, small: bool) -> pd.DataFrame:
    """Squared errors at each time of a film that is predicted, means over films, beside those of the code alone."""
    steps, components, width = (300, 8, 32) if small else (2000, 16, 100)
    data, truth = (frame_pairs(x.frames, x.dt) for x in (seen, film))
    torch.manual_seed(seed)
    coding = principal_coding(data, 2, components=components, width=width)
    model = latent_model(data.size, MODELS[name](width), *coding, canonical=0.3, time=PERIOD / (2 * math.pi))
    optimizer = torch.optim.Adam(model.parameters())
    for lr, share in ((5e-3, 0.75), (5e-4, 0.25)):
        optimizer.param_groups[0]["lr"] = lr
        fit(model, data, optimizer=optimizer, steps=round(share * steps), batch=100, seed=seed)
    found = film_of(model.predict(truth.states[:, 0], truth.times), 28, 28).double()
    coded = coding[1](coding[0](truth.states)).detach()
    here = pendulum().energy(film.states)[:, 2:-2]
    energy = film_energy(found, film.dt)
    inner = slice(2, -2)  # where rates are read

    def square(x: Tensor) -> list[float]:
        return x.square().mean(0).tolist()

    still = film.frames - film.frames.mean(1, keepdim=True)
    return pd.DataFrame({
        "model": name, "seed": seed, "period": (torch.arange(film.frames.shape[1])[inner] * film.dt / PERIOD).tolist(),
        "frame": square((found - film.frames)[:, inner].flatten(2).transpose(1, 2).flatten(0, 1)),
        "still": square(still[:, inner].flatten(2).transpose(1, 2).flatten(0, 1)),
        "angle": square((film_angle(found) - film.states[..., 0])[:, inner]),
        "energy": square(energy - here),
        "coded": square(film_energy(film_of(Trajectories(truth.times, coded), 28, 28).double(), film.dt) - here),
        "drift": square(mean(energy) - energy[:, :SPAN].mean(1, keepdim=True)),
    })  # fmt: skip


def mean(x: Tensor) -> Tensor:
    """[b, s] over the two periods up to each time; over the first two until they are over."""
    sums = torch.nn.functional.pad(x.cumsum(1), (1, 0))
    running = (sums[:, SPAN:] - sums[:, :-SPAN]) / SPAN
    return torch.cat([running[:, :1].expand(-1, SPAN - 1), running], 1)


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims, medians over seeds; errors at each time are written to ``out`` as CSV if given."""
    before, parts = torch.get_default_dtype(), []
    torch.set_default_dtype(torch.float64)  # of the networks: in float32, seeds depend on the processor
    try:
        for seed in range(1 if small else 5):
            seen = pendulum_film(8 if small else 20, seed)
            film = pendulum_film(10, 1000 + seed, frames=(3 if small else 10) * SPAN)
            parts += [errors(name, seen, film, seed, small=small) for name in MODELS]
    finally:
        torch.set_default_dtype(before)
    rows = pd.concat(parts)
    if out:
        rows.to_csv(out, index=False)
    whole, end = of_seeds(rows), of_seeds(rows.loc[rows.period > rows.period.max() - 2])
    claims = {}
    for name in MODELS:
        here, last = whole[whole.model == name], end[end.model == name]
        claims |= {
            f"{name}: frame error": float(here.frame.median()),
            f"{name}: frame error of the last two periods, over that of a still picture": float(
                (last.frame / last.still).median()
            ),
            f"{name}: energy MSE": float(here.energy.median()),
            f"{name}: energy MSE of true frames, coded and decoded": float(here.coded.median()),
            f"{name}: mean square drift of energy": float(last.drift.median()),
        }
    for what, column in {"frame error of the last two periods": "frame", "drift of energy": "drift"}.items():
        plain, kept = (end.loc[end.model == name, column].to_numpy() for name in ("plain", "Hamiltonian"))
        claims[f"{what}, plain over Hamiltonian"] = float(np.median(plain / kept))
    return claims


def of_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over times, one row for each model and seed."""
    return pd.DataFrame(rows.groupby(["model", "seed"]).mean()).reset_index()


def draw(rows: pd.DataFrame, figure: Path) -> None:
    titles = {"frame": "frames", "angle": "angle, read from frames", "drift": "drift of energy, of two-period means"}
    middle = pd.DataFrame(rows.groupby(["model", "period"]).median()).reset_index()
    frame = pd.concat([
        pd.DataFrame({
            "panel": title, "unit": "mean square error", "run": middle.model.map(list(MODELS).index),
            "value": middle[column], "period": middle.period,
        }).loc[middle.period > (4 if column == "drift" else 0)]
        for column, title in titles.items()
    ])  # fmt: skip
    runs = [Look(f"{name} latents", 0, False) for name in MODELS]
    figure.write_text(standalone(courses("pixels", frame, runs, "period", "periods")), encoding="utf-8")


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the errors over time", draw)
