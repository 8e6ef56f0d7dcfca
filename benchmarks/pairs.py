"""CPU time of two calls, paired."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(f: Callable[[], Any]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def paired(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Median of seconds(one) / seconds(other), after one call of each."""
    one()
    other()
    return statistics.median(seconds(one) / seconds(other) for _ in range(rounds))
