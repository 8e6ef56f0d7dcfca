"""Time, memory and size of the report of a long run: ``python benchmarks/records.py [rows] [--csv FILE]``.

Writes a run of a million rows (about 90 MB) to a temporary folder, then makes its report in a fresh process.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import table

from eom.records import Row, RunWriter

LAYERS = [f"features.{k}.weight" for k in range(20)]
SOURCES = ["measured", "order-0", "order-1"]
REPORT = """
import resource, sys, time
start = time.perf_counter()
from eom.analysis.report import report
path = report(sys.argv[1])
assert "torch" not in sys.modules
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(time.perf_counter() - start, time.process_time(), peak, path.stat().st_size / 1e6)
"""


def rows_at(step: int, noise: np.random.Generator, lr: float = 0.01) -> Iterator[Row]:
    """One record: values, rates and displacements of every layer."""
    time_, groups = lr * step, [*LAYERS, "all"]
    numbers = iter(noise.standard_normal(20 * len(groups)).tolist())
    for quantity, value in {"loss": 2 / (1 + time_), "lr": lr, "gradient_norm": 1 / (1 + time_)}.items():
        yield Row(step, time_, "all", quantity, "measured", value)
    if step % 100 == 0:
        yield Row(step, time_, "all", "sharpness", "measured", step / 300, 1e-6)
    for group in groups:
        yield Row(step, time_, group, "norm_squared", "measured", 3 + next(numbers))
        for quantity in ("norm_squared_rate", "norm_rate", "norm_squared_displacement"):
            for k, source in enumerate(SOURCES):
                error = 0.0 if k == 0 else 10.0 ** -(2 * k)
                yield Row(step, time_, group, quantity, source, 1 + error * next(numbers), 1e-9 + error)
        for source in SOURCES[1:]:
            yield Row(step, time_, group, "position_error", source, abs(next(numbers)), abs(next(numbers)))


def write_run(path: Path, rows: int, lr: float = 0.01) -> int:
    """A run of at least ``rows`` rows at ``path``; returns how many."""
    noise, written, step = np.random.default_rng(0), 0, 0
    manifest = {"groups": [*LAYERS, "all"], "weights": LAYERS, "settings": {"horizon": 20, "reference_lr": lr}}
    with RunWriter.create(path, manifest) as writer:
        while written < rows:
            record = list(rows_at(step, noise, lr))
            writer.append(record)
            written, step = written + len(record), step + 1
    return written


def main(rows: int = 1_000_000) -> dict[str, float]:
    """Seconds of wall time and of the processor, peak resident megabytes, megabytes of HTML and of the table."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = time.perf_counter()
        written = write_run(run, rows)
        writing = time.perf_counter() - start
        done = subprocess.run([sys.executable, "-c", REPORT, str(run)], capture_output=True, text=True, check=True)
        inside, cpu, memory, html = map(float, done.stdout.split())
        return {
            "rows": written,
            "table_mb": (run / "table.csv").stat().st_size / 1e6,
            "write_s": writing,
            "report_s": inside,
            "cpu_s": cpu,
            "peak_mb": memory,
            "html_mb": html,
        }


if __name__ == "__main__":
    parser = table.parser(__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    options = parser.parse_args()
    measured = main(options.rows)
    for name, value in measured.items():
        print(f"{name:>10} {value:12.2f}")
    table.write([measured], options.csv)
