"""The protocol of a stepper, and the march that runs it."""

from collections import deque
from collections.abc import Iterator
from numbers import Integral
from typing import Any, Protocol

import torch

from eom.dynamics.field import State
from eom.errors import SettingError


class Stepper(Protocol):
    """Advances a state by a step ``h``; what it remembers between steps is the ``carry``.

    A stepper of vector fields takes one for ``field``, a stochastic one an ``Sde``. One that is undone by the same step
    of -h says so by an attribute, ``symmetric = True``.
    """

    def init(self, y: State) -> Any: ...
    def step(self, field: Any, t: float, h: float, y: State, carry: Any) -> tuple[State, Any]: ...


def require_stepper(stepper: Any, such: str = "one, such as RK4()") -> None:
    """Raise where it is none; the class of one is called first."""
    if isinstance(stepper, type) or not (hasattr(stepper, "init") and hasattr(stepper, "step")):
        raise SettingError(f"the stepper is {getattr(stepper, '__name__', stepper)!r}, expected {such}")


def require_step(h: Any, y: State) -> None:
    """Raise where it is neither a finite number nor one for each row of ``y`` [b, n]."""
    try:
        found = torch.as_tensor(h)
        fits = bool(found.isfinite().all()) and (found.numel() == 1 or found.shape == (*y.shape[:-1], 1))
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        came = f"of shape {list(h.shape)}" if getattr(h, "ndim", 0) else repr(h)
        raise SettingError(f"h is {came}, expected a finite number, or a tensor [b, 1] of them, one for each row")


def require_tolerance(**settings: Any) -> None:
    """Raise where one of them is no error relative to what it is of."""
    wrong = [f"{name} is {x!r}" for name, x in settings.items() if not (isinstance(x, int | float) and 0 < x < 1)]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected numbers between 0 and 1")


def march(
    field: Any, stepper: Stepper, y: State, *, h: float, steps: int, t: float = 0.0
) -> Iterator[tuple[float, State]]:
    """Yield (t, y [n]) at the start and after each of ``steps`` steps of size ``h``, or [b, 1] of each row's own.

    Raises:
        SettingError: a step of another shape, or that is not finite; no number of steps.
    """
    require_step(h, y)
    if not isinstance(steps, Integral) or steps < 0:
        raise SettingError(f"steps is {steps!r}, expected 0 or more, as a whole number")
    carry = stepper.init(y)
    yield t, y
    for k in range(steps):
        y, carry = stepper.step(field, t + k * h, h, y, carry)
        yield t + (k + 1) * h, y


def end(field: Any, stepper: Stepper, y: State, *, h: float, steps: int) -> State:
    """State [n] after ``steps`` steps."""
    [(_, y)] = deque(march(field, stepper, y, h=h, steps=steps), maxlen=1)
    return y
