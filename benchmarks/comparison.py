"""Time of the page that compares 32 runs of 1e5 rows each: ``python benchmarks/comparison.py [--csv FILE]``.

Writes the runs (about 300 MB) to a temporary folder, then compares them in a fresh process.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import table
from records import write_run  # type: ignore[attr-defined] - the script beside this one

RUNS, ROWS, WANTED = 32, 100_000, 15.0
PAGE = """
import resource, sys, time
start = time.perf_counter()
from eom.analysis.compare import compare
path = compare(sys.argv[1]).report()
assert "torch" not in sys.modules
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(time.perf_counter() - start, peak, path.stat().st_size / 1e6)
"""


def main() -> None:
    options = table.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for k, lr in enumerate(np.geomspace(1e-3, 1e-1, RUNS).tolist()):
            write_run(Path(folder) / f"run-{k}", ROWS, lr)
        done = subprocess.run([sys.executable, "-c", PAGE, folder], capture_output=True, text=True, check=True)
        taken, memory, size = map(float, done.stdout.split())
    print(
        f"{RUNS} runs of {ROWS} rows: {taken:.1f} s (wanted {WANTED:.0f}), peak memory {memory:.0f} MB, {size:.2f} MB"
    )
    table.write([{"seconds": taken, "megabytes": memory, "page": size}], options.csv)


if __name__ == "__main__":
    main()
