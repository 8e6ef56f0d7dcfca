"""Does order 1 predict the norm rate of every layer, and by how much better than gradient flow?

The digits network of `eom demo` under full-batch gradient descent, with smooth activations and with ReLU. At each
record the rate of |w|^2 of each weight is measured by the log map along the run (five terms) and predicted at the same
point. Records count while lr times sharpness is below 1, and where gradient flow's error is at least 1 % of the rate or
100 times the measurement's bar.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

import eom
from eom.analysis.errors import edge, gain, prediction_errors
from eom.demo import DECAYED, Batch, cross_entropy, digits, network
from eom.records import Run

ACTIVATIONS = {"GELU": nn.GELU, "tanh": nn.Tanh, "ReLU": nn.ReLU}
RATES = (0.02, 0.005)


def counted(run: Run) -> pd.DataFrame:
    """Errors of the weights' rates at the records below lr sharpness = 1."""
    errors = prediction_errors(run)
    below = edge(run).radius
    before = errors.step < (float("inf") if below is None else below)
    return errors.loc[errors.group.isin(run.manifest["weights"]) & before & errors.source.isin(["order-0", "order-1"])]


def made(activation: Callable[[], nn.Module], batch: Batch):
    """The digits network with an activation, its loss and its data."""
    return network(activation), cross_entropy, batch


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; the errors of every record are written to ``out`` as CSV if given."""
    batch, steps = (digits(200), 60) if small else (digits(), 200)
    found: dict[str, float] = {}
    frames = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, activation in ACTIVATIONS.items():
            setup = partial(made, activation, batch)
            runs = eom.sweep(setup, RATES, steps, out=Path(folder) / name, optimizers=DECAYED, every=10, sharpness=4)
            frames[name] = errors = pd.concat([counted(run) for run in runs], keys=RATES, names=["lr"]).reset_index(
                "lr"
            )
            # one key for each record: steps of different rates are different records
            errors["step"] = errors.groupby(["lr", "step"], sort=False).ngroup()
            ratio = gain(errors)
            order_1 = errors.loc[errors.source == "order-1"]
            size = order_1.error.abs()
            found |= {
                f"{name}: order 1's error over gradient flow's, median": ratio.median,
                f"{name}: order 1's error over gradient flow's, 90th percentile": ratio.p90,
                f"{name}: share of records that count": ratio.share,
                f"{name}: share within twice the bar": float((size <= 2 * order_1.bar + order_1.reference_bar).mean()),
                f"{name}: share with the bar within a factor 3": float(order_1.bar.between(size / 3, 3 * size).mean()),
            }
    if out:
        pd.concat(frames, names=["activation"]).to_csv(out)
    return found


if __name__ == "__main__":
    answer(__doc__, main, "CSV of every error that is compared")
