"""Do single paths produce the entropy, and pay the work, that the closed forms say?

An Ornstein-Uhlenbeck process without detailed balance; a trap that is stiffened while a colloid sits in it; and SGD
near the minimum of a regression, read as such a process. Intervals are counted over many seeds.
"""

import math
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

from eom.stochastic import (
    SRA1,
    Additive,
    Brownian,
    Sde,
    crooks,
    drive,
    ensemble,
    entropy_of_paths,
    entropy_production,
    jarzynski,
)
from eom.stochastic.examples import WIDE, Regression
from eom.stochastic.thermodynamics import ou_law

A = torch.tensor([[1.0, 0.6], [-0.4, 0.8]], dtype=WIDE)
D = torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=WIDE)
STEP, PATHS = 0.005, 500


def of_paths(drift: Tensor, diffusion: Tensor, seed: int, steps: int, h: float = STEP) -> dict[str, float]:
    """Estimate and bar of the entropy production rate, and the closed form."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(PATHS, len(drift), generator=generator, dtype=WIDE)
    start = start @ torch.linalg.cholesky(ou_law(drift, diffusion)).T
    sde = Sde(lambda t, x: -x @ drift.T, Additive(torch.linalg.cholesky(2 * diffusion)))
    states = ensemble(sde, SRA1(Brownian(seed)), start, h=h, steps=steps, every=1).y
    found = entropy_of_paths(drift, diffusion, states, h)
    return {"value": found.value, "bar": found.bar, "exact": entropy_production(drift, diffusion)}


def stiffened(seed: int, steps: int) -> dict[str, float]:
    """Free energy of a trap whose stiffness grows from 1 to 4, by both laws; exactly log(4) / 2."""

    def energy(x: Tensor, stiffness: float) -> Tensor:
        return stiffness * x.square().sum(-1) / 2

    generator = torch.Generator().manual_seed(seed)
    soft, stiff = (torch.randn(4 * PATHS, 1, generator=generator, dtype=WIDE) / root for root in (1, 2))
    protocol = torch.linspace(1, 4, steps + 1, dtype=WIDE)
    there = drive(energy, soft, protocol, h=0.05, path=Brownian(2 * seed))
    back = drive(energy, stiff, protocol.flip(0), h=0.05, path=Brownian(2 * seed + 1))
    one, both = jarzynski(there.work), crooks(there.work, back.work)
    return {"jarzynski": one.value, "j_bar": one.bar, "crooks": both.value, "c_bar": both.bar, "exact": math.log(4) / 2}


def near_minimum(lr: float = 0.05) -> tuple[Tensor, Tensor]:
    """Drift H and diffusion eta Sigma / 2 of SGD near the minimum of the regression."""
    problem = Regression()
    minimum = torch.linalg.solve(problem.hessian, problem.slope)
    rows = torch.arange(problem.samples)
    sigma = torch.cov(problem.gradients(minimum.expand(len(rows), -1), rows).T, correction=0)
    return problem.hessian, lr / 2 * sigma


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; those of every seed are written to ``out`` as CSV if given."""
    seeds, steps = (6, 60) if small else (100, 400)
    entropy = pd.DataFrame([of_paths(A, D, seed, steps) for seed in range(seeds)])
    sgd = pd.DataFrame([of_paths(*near_minimum(), seed, steps, h=0.02) for seed in range(seeds)])
    work = pd.DataFrame([stiffened(seed, 30) for seed in range(seeds)])
    if out:
        pd.concat({"OU": entropy, "SGD": sgd, "trap": work}, names=["system", "seed"]).to_csv(out)
    return {
        "entropy production, closed form": float(entropy.exact.iloc[0]),
        "entropy production, mean of paths over that": float(entropy.value.mean() / entropy.exact.iloc[0]),
        "share of 95 % intervals that hold it": share(entropy.value, entropy.bar, entropy.exact),
        "SGD near a minimum: closed form": float(sgd.exact.iloc[0]),
        "SGD near a minimum: mean of paths over that": float(sgd.value.mean() / sgd.exact.iloc[0]),
        "SGD near a minimum: share of intervals": share(sgd.value, sgd.bar, sgd.exact),
        "Jarzynski: share of intervals that hold dF": share(work.jarzynski, work.j_bar, work.exact),
        "Crooks: share of intervals that hold dF": share(work.crooks, work.c_bar, work.exact),
        "Crooks: mean error of dF": float((work.crooks - work.exact).mean()),
    }


def share(value: pd.Series, bar: pd.Series, exact: pd.Series) -> float:
    return float(((value - exact).abs() < bar).mean())


def draw(rows: pd.DataFrame, figure: Path) -> None:
    """Every seed's entropy production with its interval, and the closed form."""
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "font.size": 9}
    canvas, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for ax, system, title in zip(axes, ("OU", "SGD"), ("Ornstein-Uhlenbeck", "SGD near a minimum"), strict=True):
        own = rows.loc[rows.system == system].reset_index()
        held = (own.value - own.exact).abs() < own.bar
        for good, colour, name in ((True, "#0072b2", "interval holds it"), (False, "#d55e00", "does not")):
            part = own.loc[held == good]
            ax.errorbar(part.seed, part.value, part.bar, fmt="o", ms=2, lw=0.8, color=colour, label=name)
        ax.axhline(own.exact.iloc[0], color="black", lw=1, label="closed form")
        ax.set(title=title, xlabel="seed", ylabel="entropy production per unit time")
        ax.legend(fontsize=7, loc="upper right")
    canvas.savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    answer(__doc__, main, "CSV of every seed", draw)
