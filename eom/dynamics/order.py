"""Orders as they are measured: errors over a ladder of steps, and the window in which a power of h describes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log, nan, sqrt

import numpy as np
from scipy.stats import t as student

from eom.errors import SettingError

CLEAR = 4.0  # bars that an error has to exceed
BENT = 0.1  # change of slope from one step of the ladder to the next beyond which the errors are not asymptotic
FEWEST = 3  # rungs of a window
LEAST = 0.25  # half of the smallest order that a scheme has: an error that falls more slowly tends to a constant


@dataclass(frozen=True)
class Ladder:
    """Signed errors [k] at falling steps h [k], with bars (half-widths of confidence intervals, 0 where exact).

    ``window`` is the number of finest rungs on which the errors keep their sign, exceed their bars four times, fall,
    and change their slope slowly; ``order`` is p of |error| = c h^p (1 + a h) fitted there, or None with a ``reason``.
    """

    h: tuple[float, ...]
    error: tuple[float, ...]
    bar: tuple[float, ...]

    @property
    def slopes(self) -> tuple[float, ...]:
        """log |e_i / e_{i+1}| / log(h_i / h_{i+1}) between neighbours; NaN over a change of sign or a zero."""
        return tuple(
            log(d / e) / log(h / g) if e and d / e > 0 else nan
            for (h, d), (g, e) in pairwise(zip(self.h, self.error, strict=True))
        )

    @property
    def window(self) -> int:
        if not self._clear(-1):
            return 0
        slopes, size = self.slopes, 1
        while size < len(self.h):
            at = -size
            if not (self._clear(at - 1) and slopes[at] > 0):
                break
            if size > 1 and abs(slopes[at] - slopes[at + 1]) > BENT:
                break
            size += 1
        return size

    @property
    def reason(self) -> str:
        """Why no order is stated, or nothing."""
        if self.window >= FEWEST:
            return "" if self._fit()[0] > LEAST else "the error tends to a constant"
        if not self._clear(-1):
            return "the error at the finest step is not larger than four times its bar"
        slope = self.slopes[-1] if len(self.h) > 1 else nan
        if not isfinite(slope):
            return "the error crosses zero at the finest steps"
        if slope <= 0:
            return "the error does not fall with the step"
        return f"the slopes {', '.join(f'{s:.2f}' for s in self.slopes)} have not settled"

    @property
    def order(self) -> float | None:
        return None if self.reason else self._fit()[0]

    @property
    def interval(self) -> float | None:
        """Half-width about the order: of the 95 % interval by bars and scatter about the fit, and twice the last change
        of slope, as slopes that still move are not at their end.
        """
        return None if self.reason else self._fit()[1] + 2 * abs(self.slopes[-1] - self.slopes[-2])

    def _clear(self, i: int) -> bool:
        e, bar = self.error[i], self.bar[i]
        return isfinite(e) and abs(e) > CLEAR * bar and e != 0

    def _fit(self) -> tuple[float, float]:
        """log |e| = log c + p log h + a h by least squares, weighted by the bars."""
        k = self.window
        h, e = np.array(self.h[-k:]), np.abs(self.error[-k:])
        design = np.stack([np.log(h), h / h.max(), np.ones(k)], 1)
        inverse = np.linalg.pinv(design)
        fit = inverse @ np.log(e)
        noise = float(np.sqrt((inverse[0] ** 2) @ (np.array(self.bar[-k:]) / e) ** 2))
        free = k - design.shape[1]
        scatter = 0.0
        if free > 0:
            rest = np.log(e) - design @ fit
            scatter = float(student.ppf(0.975, free) * sqrt(rest @ rest / free) * np.linalg.norm(inverse[0]))
        return float(fit[0]), noise + scatter

    def __str__(self) -> str:
        rows = [f"{'h':>10} {'error':>11} {'bar':>9} {'slope':>7}"]
        for h, e, bar, s in zip(self.h, self.error, self.bar, (nan, *self.slopes), strict=True):
            rows.append(f"{h:10.3g} {e:+11.3e} {bar:9.1e} {'' if s != s else f'{s:.2f}':>7}")
        order, width = self.order, self.interval
        end = (
            f"no order: {self.reason}"
            if order is None
            else f"order {order:.2f} ± {width:.2f}, over the finest {self.window}"
        )
        return "\n".join([*rows, end])


def ladder(error: Callable[[float], float | tuple[float, float]], hs: Sequence[float]) -> Ladder:
    """Errors at the steps ``hs``; ``error`` (h) -> the signed error, or (error, half-width of its 95 % interval).

    Raises:
        SettingError: fewer than three different positive steps.
    """
    steps = sorted({float(h) for h in hs}, reverse=True)
    if len(steps) < FEWEST or not all(isfinite(h) and h > 0 for h in steps):
        raise SettingError(f"hs is {list(hs)}, expected {FEWEST} or more different positive steps")
    found = [e if isinstance(e := error(h), tuple) else (e, 0.0) for h in steps]
    errors, bars = zip(*((float(e), float(b)) for e, b in found), strict=True)
    return Ladder(tuple(steps), errors, bars)
