"""Which steps are recorded."""

import math
import re
from collections.abc import Callable

from eom.errors import SettingError

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

    Steps 0 and ``FIRST`` are recorded; the first warms up, the second is timed against the bare steps before it.
    """

    FIRST = 10

    def __init__(self, share: float):
        self.share = share
        self.every: int | None = None

    def __call__(self, step: int) -> bool:
        if self.every is None:
            return step in (0, self.FIRST)
        return step % self.every == 0

    def settle(self, cost: float, bare: float) -> int:
        """Steps between records, from the seconds of one record and of one bare step."""
        self.every = max(1, math.ceil(cost / (self.share * bare)))
        return self.every


def make_schedule(every: Every) -> Callable[[int], bool]:
    """The rule behind ``every``.

    Args:
        every: k (every k steps), "log" (logarithmic), "10%" (budget of time), or a function step -> bool.

    Raises:
        SettingError: anything else.
    """
    if callable(every):
        return every
    if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        return regular(every)
    if every == "log":
        return logarithmic
    if isinstance(every, str) and (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", every)) and float(found[1]) > 0:
        return Budget(float(found[1]) / 100)
    raise SettingError(
        f'every is {every!r}, expected a whole number of steps, "log", a share of the time such as "10%", or a function '
        "of the step that says whether to record it"
    )
