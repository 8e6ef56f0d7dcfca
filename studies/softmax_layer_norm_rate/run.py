"""How fast does the conserved charge of the layer before a softmax decay, and which digits does the step size change?

Adding one vector to every class row of that layer changes no prediction. The component of its weights along this
symmetry, the translation charge, therefore feels weight decay only: gradient descent multiplies it by
1 - lr decay at each step, exactly. In continuous time its decay rate is

    gradient flow  lambda      order 1  lambda + eta lambda^2 / 2      exact  -log(1 - eta lambda) / eta,

so that order 1 misses it by eta^2 lambda^3 / 3 to leading order.
"""

import math
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

import eom
from eom.demo import cross_entropy, digits, network

SETTINGS = ((0.01, 0.01), (0.1, 0.1), (0.01, 0.1), (0.1, 0.01))  # learning rate, weight decay
LAYER = "7.weight"  # [10, 64], the linear layer before the softmax


def charge(weights: dict[str, Tensor]) -> Tensor:
    """[] component of the layer along the symmetry that shifts every entry alike."""
    return weights[LAYER].sum() / weights[LAYER].numel() ** 0.5


def charge_norm(weights: dict[str, Tensor]) -> Tensor:
    """[] norm of the layer's component along all of the symmetry: the mean class row."""
    return (weights[LAYER].sum(0) / weights[LAYER].shape[0] ** 0.5).norm()


Rates = dict[str, dict[str, float]]  # source -> charge -> decay rate

CHARGES = {"charge": charge, "norm": charge_norm}


def decay_rates(lr: float, decay: float, steps: int, dtype: torch.dtype, samples: int | None) -> Rates:
    """Decay rates -q'/q of both charges: predicted at the start, and the mean one of ``steps`` steps of training."""
    images, labels = digits(samples)
    model, batch = network().to(dtype), (images.to(dtype), labels)
    objective = eom.Objective(model, cross_entropy, batch, decay=decay)
    flow, theta = eom.gradient_flow(objective), objective.theta()
    observables = {name: lambda y, f=f: f(objective.named(y)) for name, f in CHARGES.items()}
    rates: Rates = {}
    for order in (0, 1):
        field = eom.corrected(flow, eom.Euler(), lr, order)
        rates[f"order {order}"] = {k: float(-eom.rate(q, field)(0.0, theta) / q(theta)) for k, q in observables.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    start, end = theta.double(), objective.theta().double()
    rates["measured"] = {k: math.log(q(start) / q(end)) / (lr * steps) for k, q in observables.items()}
    return rates


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; the table of decay rates is written to ``out`` as CSV if given."""
    steps, samples = (20, 200) if small else (100, None)
    tables = {(eta, lam): decay_rates(eta, lam, steps, torch.float64, samples) for eta, lam in SETTINGS}
    single = decay_rates(*SETTINGS[0], steps, torch.float32, samples)
    article = tables[SETTINGS[0]]
    found: dict[str, float] = {}
    for name in CHARGES:
        for (eta, lam), rates in tables.items():
            share = (rates["measured"][name] - rates["order 1"][name]) / (eta**2 * lam**3 / 3)
            found[f"{name}, lr {eta:g}, decay {lam:g}: order 1's error over eta^2 lambda^3 / 3"] = share
        found |= {f"{name}: {source}": rates[name] for source, rates in article.items()}
        found[f"{name}, float32: measured"] = single["measured"][name]
        off = abs(single["measured"][name] / article["measured"][name] - 1)
        found[f"{name}, float32: digits of the rate that survive"] = math.floor(-math.log10(off))
    if out:
        named = {f"lr {eta:g}, weight decay {lam:g}": rates for (eta, lam), rates in tables.items()}
        named["lr 0.01, weight decay 0.01, float32"] = single
        frames = {setting: pd.DataFrame(rates) for setting, rates in named.items()}
        pd.concat(frames, names=["setting", "charge"]).to_csv(out)
    return found


def draw(rows: pd.DataFrame, figure: Path) -> None:
    """Error of each order on the measured rate, relative to it, for the charge at the four settings."""
    import matplotlib.pyplot as plt

    rows = rows.query("charge == 'charge' and not setting.str.contains('float32')")
    plt.rcParams |= {"svg.fonttype": "none", "font.size": 10}
    canvas, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for order, label, colour in (("order 0", "gradient flow", "#d55e00"), ("order 1", "order 1", "#0072b2")):
        ax.plot((rows[order] / rows["measured"] - 1).abs(), rows["setting"], "o", color=colour, label=label, ms=8)
    ax.set_xscale("log")
    ax.set_xlabel("error relative to the measured decay rate")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="lower right")
    canvas.savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the decay rates", draw)
