"""Checks of orders and derivatives, for the tests of this package and of its users."""

from collections.abc import Callable, Sequence

import numpy as np

from eom.errors import SettingError


def observed_order(error: Callable[[float], float], hs: Sequence[float]) -> float:
    """Slope of log error against log h, by least squares.

    Args:
        error: h -> error, positive. hs: at least two step sizes, on which the error is asymptotic.

    Raises:
        SettingError: fewer than two steps, or an error that is not finite and positive, or does not fall with h.
    """
    if len(set(hs)) < 2 or min(hs) <= 0:
        raise SettingError(f"hs is {list(hs)}, expected at least two different positive steps")
    hs = sorted(hs, reverse=True)
    errors = [float(error(h)) for h in hs]
    if not all(np.isfinite(e) and e > 0 for e in errors):
        raise SettingError(f"the errors are {errors}, expected finite positive ones: an exact zero has no order")
    if errors[-1] >= errors[0]:
        raise SettingError(
            f"the errors {errors} do not fall with h: no order can be read off them (rounding, or a bug)"
        )
    return float(np.polyfit(np.log(hs), np.log(errors), 1)[0])


def check_derivatives(objective, order: int = 1):
    """Self-test of an objective's derivatives; the ``Check`` if all probes passed.

    Raises:
        AssertionError: a probe failed; the message names it, with its remedy.
    """
    check = objective.check(order)
    failed = [p for p in check.probes if p.verdict != "passed"]
    if failed:
        lines = (f"{p.check}: error {p.value:.2g}, allowed {p.limit:.2g}; {p.remedy}" for p in failed)
        raise AssertionError("derivatives are wrong on this model:\n" + "\n".join(lines))
    return check
