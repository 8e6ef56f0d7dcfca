"""Which steps are recorded."""

import math
import re
import time as clock
from collections.abc import Callable
from numbers import Integral

from eom.errors import SettingError
from eom.prediction.rates import TERMS

Every = int | str | Callable[[int], bool]
POINTS_PER_DECADE = 10


def logarithmic(step: int) -> bool:
    """Steps 0, 1, 2, 3, ... then ten per decade."""
    if step < POINTS_PER_DECADE:
        return True
    nearest = round(POINTS_PER_DECADE * math.log10(step))
    return any(round(10 ** (j / POINTS_PER_DECADE)) == step for j in (nearest - 1, nearest, nearest + 1))


def regular(every: int) -> Callable[[int], bool]:
    """Steps 0, every, 2 every, ..."""
    return lambda step: step % every == 0


class Budget:
    """A share of the training's time, turned once into "every k steps".

    The first step and the one ``FIRST`` later are recorded; the former warms up, the latter is timed against the bare
    steps before it.
    """

    FIRST = 10

    def __init__(self, share: float):
        self.share = share
        self.every: int | None = None
        self.start = 0
        self._marks: list[tuple[float, float]] = []  # (clock, seconds of the tracker) before each step

    def __call__(self, step: int) -> bool:
        if self.every is None:
            return step - self.start in (0, self.FIRST)
        return step % self.every == 0

    def settle(self, step: int, seconds: float, busy: bool) -> int | None:
        """The number of steps between records, once: when the second record is complete.

        Args:
            seconds: spent by the tracker so far. busy: whether a record is still open.
        """
        self._marks.append((clock.perf_counter(), seconds))
        if step < self.start + self.FIRST + TERMS + 1 or busy:
            return None
        (before, spent_before), (now, spent) = self._marks[1], self._marks[-1]
        bare = ((now - before) - (spent - spent_before)) / (len(self._marks) - 2)
        cost = spent - self._marks[self.FIRST][1]
        self.every = max(1, math.ceil(cost / (self.share * max(bare, 1e-9))))
        self._marks = []
        return self.every


def plain_every(every: Every) -> int | str:
    """As a manifest holds it."""
    return "callable" if callable(every) else every if isinstance(every, str) else int(every)


def make_schedule(every: Every) -> Callable[[int], bool]:
    """The rule behind ``every``.

    Args:
        every: k (every k steps), "log" (logarithmic), "10%" (budget of time), or a function step -> bool.

    Raises:
        SettingError: anything else.
    """
    if callable(every):
        return every
    if isinstance(every, Integral) and not isinstance(every, bool) and int(every) >= 1:
        return regular(int(every))
    if every == "log":
        return logarithmic
    if isinstance(every, str) and (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", every)) and float(found[1]) > 0:
        return Budget(float(found[1]) / 100)
    raise SettingError(
        f'every is {every!r}, expected a whole number of steps, "log", a share of the time such as "10%", or a '
        "function of the step that says whether to record it"
    )
