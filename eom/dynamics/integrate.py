"""Accurate reference flows of a field, with an estimate of their error."""

import math
import warnings
from typing import NamedTuple

import torch
import torchdiffeq

from eom.dynamics.field import State, VectorField
from eom.errors import IntegrationError, SettingError


class Flow(NamedTuple):
    """End state [n] of a flow, and the estimated size [n] of its integration error."""

    state: State
    error: State


def flow(field: VectorField, y: State, t: float, *, rtol: float = 1e-9, atol: float = 1e-12) -> State:
    """State [n] at time ``t`` on the flow of ``field`` from ``y`` [n] at time 0.

    Adaptive Dormand-Prince of order 8 (torchdiffeq); ``rtol`` and ``atol`` bound each step's error.

    Raises:
        SettingError: a time or tolerance that is not finite and positive.
        IntegrationError: the flow leaves the finite numbers, or is too stiff to follow.
    """
    if not (math.isfinite(t) and rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise SettingError(f"t, rtol, atol are {t}, {rtol}, {atol}; expected a finite time, one positive tolerance")
    if t == 0:
        return y
    span = torch.tensor([0.0, t], dtype=torch.float64)
    steps = 0

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

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torchdiffeq")
            solution = torchdiffeq.odeint(
                f, y, span, rtol=rtol, atol=atol, method="dopri8", options={"max_num_steps": 20_000}
            )
    except AssertionError as failure:
        raise IntegrationError(
            f"the flow over time {t:.6g} was given up after {steps} evaluations ({failure}). Shorten the time, or "
            "loosen rtol and atol: below rounding (about 1e-13 in float64) no tolerance can be met."
        ) from failure
    return solution[-1]


def flow_with_error(field: VectorField, y: State, t: float, *, rtol: float, atol: float) -> Flow:
    """The flow, and its distance from the flow computed with tolerances ten times as loose."""
    tight = flow(field, y, t, rtol=rtol, atol=atol)
    loose = flow(field, y, t, rtol=10 * rtol, atol=10 * atol)
    return Flow(tight, (tight - loose).abs())
