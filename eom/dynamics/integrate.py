"""Accurate reference flows of a field, with an estimate of their error."""

import math
import warnings
from itertools import pairwise
from typing import NamedTuple

import torch
import torchdiffeq

from eom.dynamics.field import State, VectorField
from eom.errors import IntegrationError, SettingError


class Flow(NamedTuple):
    """End state [n] of a flow, and the estimated size [n] of its integration error."""

    state: State
    error: State


def flow(
    field: VectorField,
    y: State,
    t: float,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    method: str = "dopri8",
    max_steps: int = 20_000,
) -> State:
    """State [n] at time ``t`` on the flow of ``field`` from ``y`` [n] at time 0.

    Adaptive Runge-Kutta (torchdiffeq); ``rtol`` and ``atol`` bound each step's error. ``method`` is "dopri8", or
    "dopri5", which takes fewer evaluations where two or three digits are enough; after ``max_steps`` steps it gives up.

    Raises:
        SettingError: a time or tolerance that is not finite and positive.
        IntegrationError: the flow leaves the finite numbers, or is too stiff to follow.
    """
    if not (math.isfinite(t) and rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise SettingError(f"t, rtol, atol are {t}, {rtol}, {atol}; expected a finite time, one positive tolerance")
    if method not in ("dopri8", "dopri5"):
        raise SettingError(f'method is {method!r}, expected "dopri8" or "dopri5"')
    return y if t == 0 else course(field, y, [0.0, t], rtol, atol, method, max_steps)[-1]


def flow_with_error(
    field: VectorField,
    y: State,
    t: float,
    *,
    rtol: float,
    atol: float,
    method: str = "dopri8",
    max_steps: int = 20_000,
) -> Flow:
    """The flow, and its distance from the flow computed with tolerances ten times as loose.

    The former stops half-way too: over a short time both would take the same one step and agree in its error.
    """
    if t == 0:
        return Flow(y, torch.zeros_like(y))
    loose = flow(field, y, t, rtol=10 * rtol, atol=10 * atol, method=method, max_steps=max_steps)
    tight = course(field, y, [0.0, t / 2, t], rtol, atol, method, max_steps)[-1]
    return Flow(tight, (tight - loose).abs())


def course(
    field: VectorField,
    y: State,
    times: list[float],
    rtol: float = 1e-9,
    atol: float = 1e-12,
    method: str = "dopri8",
    max_steps: int = 20_000,
) -> State:
    """States [s, n] at ``times``, of which the first is 0, as by ``flow``; a step ends at each of them.

    Left to itself torchdiffeq steps past the end and interpolates back, with an error of up to 1e-5. Told of several
    ends, it does so after one at which a step of its own happens to end: it is told of one at a time.
    """
    t, steps = times[-1], 0
    proposed: float | None = None  # as the next step, before it was cut to end at a time

    def f(s: torch.Tensor, x: State) -> State:
        nonlocal steps
        steps += 1
        value = field(float(s), x)
        if not bool(torch.isfinite(value).all()):
            raise IntegrationError(
                f"the field is not finite at time {float(s):.6g} of {t:.6g}: the flow has left the region where "
                "it exists, or the learning rate in its correction is too large. Shorten the time or the step."
            )
        return value

    def begun(s: torch.Tensor, x: State, h: torch.Tensor) -> None:
        nonlocal proposed
        proposed = float(h)

    f.callback_step = begun  # type: ignore[attr-defined] - where torchdiffeq looks for it
    states = [y.detach()]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torchdiffeq")
            for ends in pairwise(times):
                span = torch.tensor(ends, dtype=torch.float64)
                options = {"max_num_steps": max_steps, "step_t": span[1:], "first_step": proposed}
                found = torchdiffeq.odeint(f, states[-1], span, rtol=rtol, atol=atol, method=method, options=options)
                states.append(found[-1])  # type: ignore[index] - torchdiffeq is untyped
    except AssertionError as failure:
        raise IntegrationError(
            f"the flow over time {t:.6g} was given up after {steps} evaluations ({failure}). Shorten the time, or "
            "loosen rtol and atol: below rounding (about 1e-13 in float64) no tolerance can be met."
        ) from failure
    return torch.stack(states)
