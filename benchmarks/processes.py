"""Throughput of one objective over two processes, one thread each, over that of one process: paired rounds.

    python benchmarks/processes.py [--rounds 9] [--samples 16384] [--csv FILE]

The benchmark's perceptron on a batch of which either one process has all, or each of the two its half; both are timed
by the clock in the same job, in turn. Values are medians of the ratios.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import table

WANTED = 1.7


def seconds(f: Callable[[], object], repeats: int = 3) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        f()
    return (time.perf_counter() - start) / repeats


def measure(rounds: int, samples: int) -> list[dict[str, object]]:
    """On one rank: ratios of the times, alone on rank 0 over together."""
    import torch
    import torch.distributed as dist
    from models import cross_entropy, make

    import eom

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, _ = make("mlp")
    torch.manual_seed(1)
    x, y = torch.randn(samples, 784), torch.randint(10, (samples,))
    half = slice(rank * samples // 2, (rank + 1) * samples // 2)
    settings: dict[str, Any] = {"product": "double-backward"}
    alone = eom.Objective(model, cross_entropy, (x, y), **settings)
    shared = eom.Objective(model, cross_entropy, (x[half], y[half]), process_group=dist.group.WORLD, **settings)
    theta, v = shared.theta(), torch.randn(shared.layout.n)
    kept = {"alone": alone.expansion(theta), "shared": shared.expansion(theta)}
    work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "gradient": (lambda: alone.gradient(theta), lambda: shared.gradient(theta)),
        "g and H v": (lambda: alone.gradient_and_hvp(theta, v), lambda: shared.gradient_and_hvp(theta, v)),
        "further H v": (lambda: kept["alone"].hvp(v), lambda: kept["shared"].hvp(v)),
    }
    rows = []
    for name, (one, both) in work.items():
        ratios = []
        for _ in range(rounds + 1):  # one to warm up
            dist.barrier()
            single = seconds(one) if rank == 0 else 0.0
            dist.barrier()
            ratios.append(single / seconds(both))
        rows.append({"evaluation": name, "throughput": statistics.median(ratios[1:])})
    dist.destroy_process_group()
    return rows if rank == 0 else []


def main() -> None:
    parser = table.parser(__doc__, rounds=9)
    parser.add_argument("--samples", type=int, default=16384)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *sys.argv]
        subprocess.run([sys.executable, *command], check=True, env=os.environ | table.MALLOC | {"OMP_NUM_THREADS": "1"})
        return
    rows = measure(options.rounds, options.samples)
    for row in rows:
        print(f"{row['evaluation']:12s} {row['throughput']:.2f} times the throughput of one process (wanted {WANTED})")
    if rows:
        table.write(rows, options.csv)


if __name__ == "__main__":
    main()
