"""Eight learning rates of a digits perceptron: a sweep over the runs one after another, paired rounds by the clock.

    python benchmarks/sweep.py [--rounds 3] [--steps 1500] [--csv FILE]

One after another each run has two threads; in the sweep as many run at once as there are cores, one thread each. The
processes of the sweep are started before; what starting them costs is given apart.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import table

RATES = (0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01)
WANTED = 1.7


def setup() -> tuple[Any, Any, Any]:
    """64-128-64-10, tanh, on all 1797 digits."""
    import torch
    from torch import nn

    from eom.demo import cross_entropy, digits

    images, labels = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    return model.to(torch.float32), cross_entropy, (images.float(), labels)


def seconds(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main() -> None:
    parser = table.parser(__doc__, rounds=3)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import io

    from rich.console import Console

    import eom

    def sweep(rates: tuple[float, ...], steps: int, **how: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            console = Console(file=io.StringIO())
            return seconds(lambda: eom.sweep(setup, rates, steps, out=Path(folder) / "sweep", console=console, **how))

    started = sweep(RATES[:2], 1, jobs=2)
    again = sweep(RATES[:2], 1, jobs=2)
    print(f"starting the processes: {started - again:.1f} s")
    rows = []
    for _ in range(options.rounds):
        serial = sweep(RATES, options.steps, jobs=1, threads=2)
        parallel = sweep(RATES, options.steps)
        rows.append({"serial": serial, "sweep": parallel, "ratio": serial / parallel})
        print(f"one after another {serial:.1f} s, sweep {parallel:.1f} s: {rows[-1]['ratio']:.2f}", flush=True)
    print(f"median {statistics.median(row['ratio'] for row in rows):.2f} times faster (wanted {WANTED})")
    table.write(rows, options.csv)


if __name__ == "__main__":
    main()
