"""The runs of a sweep: every combination of what is swept."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral, Real
from typing import Any, TypeVar

from eom.errors import SettingError

T = TypeVar("T")
LONGEST = 1e12  # steps of a run


@dataclass(frozen=True)
class Cell:
    """One run: what it trains with, and the name of its folder, which stays when the sweep is extended."""

    lr: float
    steps: int
    seed: int = 0
    batch_size: int | None = None  # None: the data as setup gives it
    optimizer: str = "SGD"

    @property
    def name(self) -> str:
        parts = [f"lr-{self.lr!r}"]
        parts += [self.optimizer] if self.optimizer != "SGD" else []
        parts += [f"batch-{self.batch_size}"] if self.batch_size else []
        parts += [f"seed-{self.seed}"] if self.seed else []
        return "-".join(parts)


def grid(
    lrs: Iterable[float],
    steps: int | None,
    time: float | None,
    seeds: Sequence[int],
    batch_sizes: Sequence[int | None],
    optimizers: Iterable[str],
) -> list[Cell]:
    """Every combination, the largest learning rates first, which diverge soonest.

    ``steps`` of each run, or the ``time`` that each is to reach, the sum of its learning rates.

    Raises:
        SettingError: nothing to sweep, a value outside what it may be, or twice the same.
    """
    rates = _several("lrs", lrs, lambda lr: _positive("lrs", lr))
    if (steps is None) == (time is None):
        raise SettingError(f"steps is {steps!r} and time {time!r}, expected one of them")
    if steps is None:
        end = _positive("time", time)
        lengths = {lr: _length(end, lr) for lr in rates}
    else:
        lengths = dict.fromkeys(rates, whole_number("steps", steps, 1, LONGEST))
    kinds = _several("optimizers", optimizers, _name)
    drawn = _several("seeds", seeds, lambda seed: whole_number("seeds", seed, 0, 2**32 - 1))
    sizes = _several("batch_sizes", batch_sizes, lambda b: b if b is None else whole_number("batch_sizes", b, 1))
    rates.sort(reverse=True)
    found = product(rates, drawn, sizes, kinds)
    return [Cell(lr, lengths[lr], seed, size, kind) for lr, seed, size, kind in found]


def _several(name: str, values: Iterable[Any], checked: Callable[[Any], T]) -> list[T]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise SettingError(f"{name} is {values!r}, expected a list")
    found = [checked(x) for x in values]
    if not found:
        raise SettingError(f"{name} is empty, expected one value or more")
    if twice := sorted({str(x) for x in found if found.count(x) > 1}):
        raise SettingError(f"{name} holds {', '.join(twice)} twice, expected each once")
    return found


def _positive(name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number beyond floats
        number = math.inf
    if not 0 < number < math.inf:
        raise SettingError(f"{name} holds {value!r}, expected positive finite numbers")
    return number


def whole_number(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """The value, if it is one from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        upwards = "or more" if most == math.inf else f"to {most:.15g}"
        raise SettingError(f"{name} holds {value!r}, expected whole numbers, {least} {upwards}")
    return int(value)


def _length(end: float, lr: float) -> int:
    """Steps at this rate up to a time."""
    if not end / lr < LONGEST:
        raise SettingError(f"time {end:g} takes {end / lr:.2g} steps at learning rate {lr:g}: ask for less")
    return math.ceil(end / lr * (1 - 1e-12))


def _name(value: Any) -> str:
    """An optimizer's name, which is a part of the names of folders."""
    if not isinstance(value, str) or not re.fullmatch(r"\w{1,60}", value):
        raise SettingError(f"optimizers holds {value!r}, expected names of letters and digits, such as SGD")
    return value
