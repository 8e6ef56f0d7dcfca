"""Up to which learning rate does the stochastic equation describe SGD on the digits?

SVAG at several learning rates, to the same time, and what the gradient noise of that training looks like.
"""

import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

import eom
from eom.demo import cross_entropy, digits
from eom.stochastic import gradient_noise, svag

RATES, TIME, BATCH, SAMPLES = (0.1, 0.4, 1.6), 24.0, 20, 600
CREDIBLE = {"credible": 1.0, "open": 0.5, "not credible": 0.0}


def setup():
    """A perceptron on 600 digits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    return net, cross_entropy, digits(SAMPLES)


def noise(folder: Path, steps: int) -> dict[str, float]:
    """Of the gradients of all samples, at the end of a training at learning rate .1."""
    model, loss_fn, data = setup()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with eom.track(
        model, optimizer, loss_fn, folder, every=steps // 4, quantities=[gradient_noise(every=1)], sharpness=1
    ) as tracker:
        for _ in range(steps + 1):
            optimizer.zero_grad()
            tracker.loss(data).backward()
            optimizer.step()
    table = tracker.run.table()
    return (
        table.loc[(table.step == steps) & (table.source == "measured")].groupby("quantity", observed=True).value.last()
    )


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; pages and runs are kept in ``out`` if given."""
    seeds, rates, time = (3, (0.4,), 4.0) if small else (24, RATES, TIME)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        for lr in rates:
            found = svag(
                setup, lr, round(time / lr), batch_size=BATCH, seeds=range(seeds), out=folder / f"lr-{lr:g}",
                console=Console(quiet=True),
                jobs=1 if small else None, threads=1 if small else None,
            )  # fmt: skip
            found.report()
            (loss,) = (row for row in found.table().to_dict("records") if row["quantity"] == "whole_loss")
            result[f"lr {lr:g}: credible (1), open (.5) or not (0)"] = CREDIBLE[found.verdict]
            result[f"lr {lr:g}: loss of SGD off the finest's, share of its change"] = loss["difference"]
            result[f"lr {lr:g}: half-width of that"] = loss["bar"]
        seen = noise(folder / "noise", 40 if small else 200)
    met = seen["gradient_noise_curvature"] / seen["sharpness"]
    return result | {
        "gradient noise: largest direction's share": seen["gradient_noise_top"],
        "gradient noise: curvature it meets over the sharpness": met,
        "gradient noise: tail index": seen["gradient_noise_tail"],
    }


if __name__ == "__main__":
    answer(__doc__, main, "a folder for runs and pages")
