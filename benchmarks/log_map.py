"""What the corrected field of order k by look-ahead costs beyond its k + 1 gradients: paired rounds in one process.

    python benchmarks/log_map.py [--rounds 15] [--threads 1] [--csv FILE]

Each entry is the median over the rounds of time(field) / time(k + 1 gradients) - 1, in CPU time of the process; the
gradients are taken at the k + 1 points of the look-ahead, as weights that are not in the cache cost a few percent more.
"""

import statistics
import time
from collections.abc import Callable
from itertools import islice

import table

ORDERS = (1, 2, 3, 4)
LIMIT = 3  # %


def seconds(f: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        f()
    return (time.process_time() - start) / repeats


def overhead(name: str, order: int, rounds: int) -> float:
    """Median share of the time that is not the gradients'."""
    from models import cross_entropy, make

    import eom
    from eom.dynamics.correction import slopes

    model, batch = make(name)
    objective = eom.Objective(model, cross_entropy, batch, decay=0.01)
    flow, theta = eom.gradient_flow(objective), objective.theta()
    field = eom.corrected(flow, eom.Euler(), 0.01, order, method="log-map")
    points = [y for y, _ in islice(slopes(flow, eom.Euler(), 0.0, 0.01, theta), order + 1)]
    repeats = 8 if name == "mlp" else 1
    ratios = []
    for _ in range(rounds + 1):  # one to warm up
        field_time = seconds(lambda: field(0.0, theta), repeats)
        gradient_time = seconds(lambda: [flow(0.0, y) for y in points], repeats)
        ratios.append(field_time / gradient_time - 1)
    return statistics.median(ratios[1:])


def main() -> None:
    table.hold_still()
    parser = table.parser(__doc__, rounds=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    print(
        f"cost beyond k + 1 gradients, % (wanted: <= {LIMIT}); torch {torch.__version__}, {options.threads} thread(s)"
    )
    print(f"{'':6s}" + "".join(f"{f'order {k}':>10s}" for k in ORDERS))
    rows = []
    for name in ("mlp", "cnn", "gpt"):
        found = {k: 100 * overhead(name, k, options.rounds) for k in ORDERS}
        rows += [{"network": name, "order": k, "overhead_percent": share} for k, share in found.items()]
        print(f"{name:6s}" + "".join(f"{share:10.1f}" for share in found.values()))
    table.write(rows, options.csv)


if __name__ == "__main__":
    main()
