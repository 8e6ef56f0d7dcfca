"""Errors of stochastic steppers by sampling: the same paths on finer and finer grids, with confidence intervals."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from eom.dynamics.field import State
from eom.dynamics.order import Ladder
from eom.dynamics.sde import Sde, SdeStepper
from eom.dynamics.stepper import end
from eom.errors import ExplosionError, SettingError

NORMAL = 1.96  # half-width of a 95 % interval, in standard deviations of the mean


def ends(sde: Sde, stepper: SdeStepper, y: State, t: float, steps: int, levels: Sequence[int]) -> list[State]:
    """States [b, n] at time ``t`` of the same paths in ``steps`` 2^l steps, for each of the ``levels`` l."""
    if type(steps) is not int or steps < 1 or not levels:
        raise SettingError(f"steps is {steps!r} at {len(levels)} levels, expected 1 or more of both")
    if y.ndim != 2 or len(y) < 2:
        raise SettingError(f"y is {list(y.shape)}, expected [b, n], two paths or more")
    at = [(replace(stepper, path=stepper.path.refined(level)), steps << level) for level in levels]
    return [end(sde, one, y, h=t / count, steps=count) for one, count in at]


def strong_errors(sde: Sde, stepper: SdeStepper, y: State, t: float, steps: int, levels: int) -> Ladder:
    """E |Y_h - Y| at time ``t`` over the batch of ``y`` [b, n], in ``steps`` 2^l steps, l = 0, ..., ``levels`` - 1.

    Y is, on the same paths, the march on a grid 16 times finer than the finest of these. That raises the last slope by
    up to .05 at order 1, the ones before it by half as much each, which the order's interval knows.
    """
    *found, reference = ends(sde, stepper, y, t, steps, [*range(levels), levels + 3])
    return _ladder(torch.stack([(x - reference).norm(dim=-1) for x in found]), t / steps)


def weak_differences(
    sde: Sde, stepper: SdeStepper, y: State, phi: Callable[[State], Tensor], t: float, steps: int, levels: int
) -> Ladder:
    """E phi(Y_h) - E phi(Y_{h/2}) at time ``t`` over the batch of ``y`` [b, n], on the same paths; phi [b, n] -> [b].

    It falls as the weak error does, by its factor 1 - 2^-p, and its sampling error falls with h as well.
    """
    values = torch.stack([phi(x) for x in ends(sde, stepper, y, t, steps, range(levels + 1))])
    return _ladder(values[:-1] - values[1:], t / steps)


def _ladder(samples: Tensor, h: float) -> Ladder:
    """From samples [k, b] at steps h, h/2, ...

    Raises:
        ExplosionError: some are not finite. SettingError: they are not one number for each path.
    """
    if samples.ndim != 2:
        raise SettingError(f"phi gave {list(samples.shape[1:])} for the paths, expected [b], one number for each")
    if not bool(samples.isfinite().all()):
        raise ExplosionError("paths left the finite numbers: take smaller steps to begin with")
    bars = NORMAL * samples.std(1) / sqrt(samples.shape[1])
    return Ladder(tuple(h / 2**k for k in range(len(samples))), tuple(samples.mean(1).tolist()), tuple(bars.tolist()))
