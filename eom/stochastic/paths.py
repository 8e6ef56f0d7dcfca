"""Paths of a stochastic equation as one batch, followed to their end."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.dynamics.sde import Sde
from eom.dynamics.stepper import Stepper
from eom.errors import ExplosionError, SettingError
from eom.stochastic.stability import warn_of_stability

LOOK = 64  # steps from one look at whether the state is finite to the next


class Ensemble(NamedTuple):
    """Times [k], and states [k, ..., n] there."""

    t: Tensor
    y: Tensor


def ensemble(field: Any, stepper: Stepper, y: State, *, h: float, steps: int, every: int | None = None) -> Ensemble:
    """March a batch of paths ``y`` [..., n], such as [b, n], and keep every ``every``-th state; the ends by default.

    Args:
        field: an ``Sde``, or what else the stepper takes. h: step. steps: how many.

    Warns where the step is too large for the field's linear part at the start.

    Raises:
        SettingError: a step or number of steps outside what it may be.
        ExplosionError: a path leaves the finite numbers; it names the first one, its time and its size before.
    """
    if not (0 < h < float("inf")):
        raise SettingError(f"h is {h}, expected a positive step")
    keep = steps if every is None else every
    for name, value in (("steps", steps), ("every", keep)):
        if type(value) is not int or value < 1:
            raise SettingError(f"{name} is {value!r}, expected a whole number, 1 or more")
    if not (isinstance(y, Tensor) and y.is_floating_point() and y.ndim and y.numel() and bool(y.isfinite().all())):
        raise SettingError("y is no tensor [..., n] of finite numbers, from which paths could begin")
    with torch.no_grad():
        warn_of_stability(field, y, h)
        kept = {k: state for k, state in _marched(field, stepper, y, h, steps) if k % keep == 0 or k == steps}
    return Ensemble(torch.tensor([k * h for k in kept], dtype=torch.float64), torch.stack(list(kept.values())))


def _marched(field: Any, stepper: Stepper, y: State, h: float, steps: int) -> Iterator[tuple[int, State]]:
    """Yield (k, y_k). Where a state is found that is not finite, the steps since the last look are done again."""
    carry = stepper.init(y)
    seen = 0, y, carry
    yield 0, y
    for k in range(steps):
        y, carry = stepper.step(field, k * h, h, y, carry)
        if (k + 1) % LOOK == 0 or k + 1 == steps:
            if not bool(y.isfinite().all()):
                raise _exploded(field, stepper, h, *seen)
            seen = k + 1, y, carry
        yield k + 1, y


def _exploded(field: Any, stepper: Stepper, h: float, k: int, y: State, carry: Any) -> ExplosionError:
    """From step ``k``, whose state is finite, to the first one whose is not: the same steps, as noise is counted."""
    before = y
    while bool(y.isfinite().all()):
        before = y
        y, carry = stepper.step(field, k * h, h, y, carry)
        k += 1
    lost = ~y.isfinite().all(-1)
    size = float(before[lost].abs().max()) if y.ndim > 1 else float(before.abs().max())
    which = f"{int(lost.sum())} of {lost.numel()} paths" if y.ndim > 1 else "the path"
    return ExplosionError(
        f"{which} left the finite numbers at time {k * h:.4g}, step {k}, from a size of {size:.3g} the step before: "
        f"{_cause(field, (k - 1) * h, h, before)}"
    )


def _cause(field: Any, t: float, h: float, y: State) -> str:
    """What is to blame at the last finite state."""
    if isinstance(field, Sde):
        if not bool(field.drift(t, y).isfinite().all()):
            return "the drift is not finite there"
        if not bool(field.noise(t, y, torch.ones(*y.shape[:-1], field.noise.channels(y)).to(y)).isfinite().all()):
            return "the noise is not finite there"
    return f"the drift explodes, or h = {h:g} is too large for it. Take a smaller step, or a drift of linear growth"
