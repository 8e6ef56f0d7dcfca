"""What the benchmarks share: a process whose memory allocator holds still, and tables as CSV."""

import argparse
import csv
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MALLOC = {  # or page faults would drown the convolutions
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


RETURNING = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # freed tensors go back to the system at once, where it is asked


def hold_still(malloc: Mapping[str, str] = MALLOC, **others: str) -> None:
    """Start this process anew where glibc's malloc was not told to keep freed memory, or ``others`` are not set."""
    wanted = {**malloc, **others}
    if any(os.environ.get(k) != v for k, v in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def parser(description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """Options of a benchmark: the rounds that medians are taken over, and where its rows go."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds:
        found.add_argument("--rounds", type=int, default=rounds)
    found.add_argument("--csv", type=Path)
    return found


def write(rows: Sequence[Mapping[str, Any]], path: Path | None) -> None:
    """Write rows with all their columns, if a path was given."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(column for row in rows for column in row))
        writer.writeheader()
        writer.writerows(rows)
