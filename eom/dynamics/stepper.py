"""The protocol of a stepper, and the march that runs it."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from eom.dynamics.field import State
from eom.errors import SettingError


class Stepper(Protocol):
    """Advances a state by a step ``h``; what it remembers between steps is the ``carry``.

    A stepper of vector fields takes one for ``field``, a stochastic one an ``Sde``.
    """

    def init(self, y: State) -> Any: ...
    def step(self, field: Any, t: float, h: float, y: State, carry: Any) -> tuple[State, Any]: ...


def require_stepper(stepper: Any, such: str = "one, such as RK4()") -> None:
    """Raise where it is none; the class of one is called first."""
    if isinstance(stepper, type) or not (hasattr(stepper, "init") and hasattr(stepper, "step")):
        raise SettingError(f"the stepper is {getattr(stepper, '__name__', stepper)!r}, expected {such}")


def march(
    field: Any, stepper: Stepper, y: State, *, h: float, steps: int, t: float = 0.0
) -> Iterator[tuple[float, State]]:
    """Yield (t, y [n]) at the start and after each of ``steps`` steps of size ``h``."""
    carry = stepper.init(y)
    yield t, y
    for k in range(steps):
        y, carry = stepper.step(field, t + k * h, h, y, carry)
        yield t + (k + 1) * h, y


def end(field: Any, stepper: Stepper, y: State, *, h: float, steps: int) -> State:
    """State [n] after ``steps`` steps."""
    [(_, y)] = deque(march(field, stepper, y, h=h, steps=steps), maxlen=1)
    return y
