"""What the tracker costs on top of a bare training: paired blocks of steps in one process, medians of ratios.

    python benchmarks/tracker.py [--rounds 15] [--threads 1] [--csv FILE]

Each row trains two copies of a network in turn, ten steps bare and ten steps tracked, on the CPU; the overhead is the
median over the rounds of (tracked / bare - 1), in CPU time of the process. Attention runs on its plain kernel in
both, as second derivatives need it. glibc's malloc is told to keep freed memory, or page faults would drown the
convolutions.
"""

import copy
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import table

BLOCK = 10  # steps; one record each

ROWS: list[tuple[str, dict[str, Any], dict[str, float]]] = [  # name, settings of eom.track, limits in %
    ("order 1 by double backward", {"bars": False}, {"mlp": 36, "cnn": 50, "gpt": 36}),
    ("order 1 by a difference", {"bars": False, "product": "difference"}, {"mlp": 18, "cnn": 14, "gpt": 16}),
    ("reconstruction from own gradients", {"order": 0}, {"mlp": 10, "cnn": 3, "gpt": 6}),
    ("norms of all layers, every step", {"order": None, "every": 1}, {"mlp": 8, "cnn": 8, "gpt": 4}),
    ("order 1 with bars", {}, {}),
    ("order 1 with bars and sharpness each time", {"sharpness": 1}, {}),
    ("order 1, a displacement over 10 steps each time", {"bars": False, "horizon": BLOCK, "horizons": 1}, {}),
]


def block(model, optimizer, loss: Callable, batch) -> float:
    """CPU seconds of ``BLOCK`` steps."""
    start = time.process_time()
    for _ in range(BLOCK):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    return time.process_time() - start


def overhead(name: str, settings: dict[str, Any], rounds: int) -> float:
    """Median share that tracking adds to a training."""
    import torch
    from models import cross_entropy, make
    from torch.nn.attention import SDPBackend, sdpa_kernel

    import eom

    bare, batch = make(name)
    tracked = copy.deepcopy(bare)
    sgd = [torch.optim.SGD(m.parameters(), lr=0.01, weight_decay=0.01) for m in (bare, tracked)]
    settings = {"every": BLOCK, "sharpness": 0} | settings
    ratios = []
    with (
        tempfile.TemporaryDirectory() as folder,
        sdpa_kernel(SDPBackend.MATH),
        eom.track(tracked, sgd[1], cross_entropy, Path(folder) / "run", **settings) as tracker,
    ):
        for r in range(rounds + 2):  # two to warm up
            with_tracker = block(tracked, sgd[1], tracker.loss, batch)
            without = block(bare, sgd[0], lambda b: cross_entropy(bare, b), batch)
            if r >= 2:
                ratios.append(with_tracker / without - 1)
    return statistics.median(ratios)


def main() -> None:
    table.hold_still()
    parser = table.parser(__doc__, rounds=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=["mlp", "cnn", "gpt"])
    parser.add_argument("--rows", type=int, nargs="+", default=list(range(len(ROWS))))
    options = parser.parse_args()
    import torch

    warnings.simplefilter("ignore")  # flows given up on random labels
    torch.set_num_threads(options.threads)
    print(f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s), every {BLOCK} steps, float32")
    print(f"{'overhead on a bare training, % (wanted)':50s}" + "".join(f"{n:>16s}" for n in options.networks))
    found = []
    for i in options.rows:
        name, settings, limits = ROWS[i]
        print(f"{name:50s}", end="", flush=True)
        for network in options.networks:
            share = 100 * overhead(network, settings, options.rounds)
            wanted = f"(<= {limits[network]:g})" if network in limits else ""
            print(f"{share:7.1f} {wanted:>8s}", end="", flush=True)
            found.append({"row": name, "network": network, "overhead_percent": share, "wanted": limits.get(network)})
        print()
    table.write(found, options.csv)


if __name__ == "__main__":
    main()
