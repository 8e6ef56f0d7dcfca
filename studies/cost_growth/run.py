"""How does the cost of one record grow with parameters, layers, batch, order and groups?

Perceptrons of equal layers, float32, on the CPU, one thread. A record is what the tracker does at a step that is
recorded and the six after it; its cost is the time of eight such steps less that of eight bare ones, in CPU time,
medians of paired rounds. The exponent is the slope of log cost over log size.
"""

import csv
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

import eom

EVERY = 8


def seconds_of(width: int, layers: int, batch: int, rounds: int, **settings: Any) -> tuple[float, float]:
    """CPU seconds of one record beyond its steps, and of one bare step."""
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh())])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = torch.randn(batch, width)

    def loss_fn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).square().mean()

    def steps(loss: Any) -> float:
        start = time.process_time()
        for _ in range(EVERY):
            optimizer.zero_grad()
            loss(data).backward()
            optimizer.step()
        return time.process_time() - start

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with eom.track(
            model, optimizer, loss_fn, Path(folder) / "run", every=EVERY, sharpness=0, **settings
        ) as tracker:
            steps(tracker.loss)  # with the self-test
            pairs = [(steps(tracker.loss), steps(lambda x: loss_fn(model, x))) for _ in range(rounds)]
    return statistics.median(a - b for a, b in pairs), statistics.median(b for _, b in pairs) / EVERY


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The exponents that the study claims; every measurement is written to ``out`` as CSV if given."""
    torch.set_num_threads(1)
    rounds = 3 if small else 5
    rows: list[dict[str, Any]] = []

    def measure(name: str, size: float, width: int, layers: int, batch: int, **settings: Any) -> float:
        cost, step = seconds_of(width, layers, batch, rounds if width < 2000 else 3, **settings)
        rows.append({"over": name, "size": size, "record": cost, "step": step})
        return cost

    def over(name: str, sizes: Sequence[int], of: Any) -> float:
        return exponent(sizes, [of(name, size) for size in sizes])

    widths = (64, 128, 256) if small else (50, 158, 500, 1581, 5000)  # of four layers: 1e4 .. 1e8 parameters
    layers, batches = ((2, 4, 8), (64, 128, 256)) if small else ((2, 4, 8, 16), (64, 256, 1024, 4096))
    parameters = [4 * width**2 for width in widths]
    costs = [measure("parameters", n, w, 4, 32) for n, w in zip(parameters, widths, strict=True)]
    found = {
        "parameters": exponent(parameters, costs),
        "parameters, the three largest": exponent(parameters[-3:], costs[-3:]),  # where no fixed cost flatters
        "layers": over("layers", layers, lambda name, size: measure(name, size, 256, size, 64)),
        "batch": over("batch", batches, lambda name, size: measure(name, size, 256, 4, size)),
    }
    orders = [measure("order", k, 256, 4, 256, order=k) for k in (0, 1, 2)]
    found["order 1 over order 0"], found["order 2 over order 1"] = orders[1] / orders[0], orders[2] / orders[1]
    few = {"all weights": [f"{2 * k}.weight" for k in range(4)]}
    found["one group over one for each tensor"] = measure("groups", 1, 256, 4, 256, groups=few) / orders[1]
    if out:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return found


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the costs")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
