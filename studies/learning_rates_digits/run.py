"""Up to which learning rate does each order describe the training of three networks on digits, and how do errors grow?

A perceptron, the demonstration's convolutional network with BatchNorm, and a transformer block over the rows of the
image, in float64 under full-batch gradient descent, at twelve learning rates each from one start, on common time.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

import eom
from eom.demo import cross_entropy, digits, network

RATES = np.geomspace(0.005, 0.5, 12).round(4).tolist()
SMALL_RATES = [0.02, 0.05, 0.1]


class Transformer(nn.Module):
    """One pre-norm block over the eight rows of an image [b, 1, 8, 8], to logits [b, 10]."""

    def __init__(self, width: int = 16, heads: int = 2):
        super().__init__()
        self.embed, self.position = nn.Linear(8, width), nn.Parameter(0.02 * torch.randn(8, width))
        self.block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.embed(images.squeeze(1)) + self.position
        return self.head(self.norm(self.block(rows)).mean(1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "BN-CNN": network,
    "transformer": Transformer,
}


def setup(name: str, samples: int | None) -> tuple[nn.Module, Any, Any]:
    """A network in float64, its loss and the digits."""
    torch.manual_seed(0)
    return NETWORKS[name]().double(), cross_entropy, digits(samples)


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; runs and pages are kept in ``out`` if given."""
    rates, time, samples = (SMALL_RATES, 0.6, 60) if small else (RATES, 3.0, 600)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            place = (out or Path(folder)) / name
            how: dict[str, Any] = {"every": 5, "sharpness": 8, "console": Console(file=io.StringIO())}
            if small:
                how |= {"jobs": 1, "threads": 1}
            comparison = eom.compare(eom.sweep(partial(setup, name, samples), rates, time=time, out=place, **how))
            if out:
                print(comparison.report(place))
            for source, fit in comparison.pooled().items():
                found[f"{name}: slope of {source}"] = fit.slope
            for source, rate in comparison.largest(0.1).items():
                if out:
                    print(f"{name}, largest rates for 10 %, {source}: {rate}")
                found[f"{name}: largest rate for 10 %, {source}, by bars over seen"] = rate.bars.value / rate.seen.value
    return found


if __name__ == "__main__":
    answer(__doc__, main, "a folder for runs and pages")
