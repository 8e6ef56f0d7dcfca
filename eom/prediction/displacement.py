"""Where the flows of order 0, 1, 2 arrive after a horizon of N steps, to set against where the run went."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.dynamics.correction import corrected
from eom.dynamics.field import SmoothField
from eom.dynamics.integrate import Flow, flow, flow_with_error
from eom.dynamics.runge_kutta import Euler
from eom.errors import IntegrationError

# Integration error allowed per step of the solver, as a share of what the next order changes.
SHARE = 1e-2
LEAST = 5  # steps of a leg that the solver's own start-up takes


@dataclass(frozen=True)
class Leg:
    """``steps`` steps of gradient descent with one learning rate."""

    lr: float
    steps: int

    @property
    def time(self) -> float:
        return self.lr * self.steps


def flows(field: SmoothField, theta: Tensor, legs: Sequence[Leg], order: int) -> list[Flow]:
    """End states [n] of the corrected flows of order 0 .. ``order + 1`` from ``theta`` [n], with integration errors.

    Orders 0 and 1 by terms, higher ones by the log map (third derivatives are not right through every module).
    Each flow is integrated to a tolerance set by the term that it leaves out. The last flow is there for the bar of
    the one before, to ten times that one's tolerance; its error is not estimated (NaN).

    Beyond lr lambda = 1 the fields of higher order grow stiff and mean less and less: a flow that takes more than two
    steps of the solver per step of the march is given up (NaN), and those of higher order with it.
    """
    nothing = torch.full_like(theta, torch.nan)
    ends: list[Flow] = []
    left_out = [_left_out(field, theta, legs[0].lr, k) for k in range(order + 1)]
    for k in range(order + 2):
        try:
            ends.append(_flow(field, theta, legs, k, SHARE * left_out[min(k, order)], estimate=k <= order))
        except IntegrationError:
            break
    return ends + [Flow(nothing, nothing)] * (order + 2 - len(ends))


def _flow(field: SmoothField, y: Tensor, legs: Sequence[Leg], order: int, tolerance: float, *, estimate: bool) -> Flow:
    """The flow over all legs, to ``tolerance`` per unit time; loosely, and without an estimate, for a bar only."""
    error = torch.zeros_like(y)
    for leg in legs:
        by = corrected(field, Euler(), leg.lr, order, _method(order))
        atol, limits = tolerance * leg.time + 1e-15, {"method": "dopri5", "max_steps": 2 * max(leg.steps, LEAST)}
        if estimate:
            y, own = flow_with_error(by, y, leg.time, rtol=0.0, atol=atol, **limits)
        else:
            y, own = flow(by, y, leg.time, rtol=0.0, atol=10 * atol, **limits), torch.full_like(y, torch.nan)
        error = error + own
    return Flow(y, error)


def _left_out(field: SmoothField, y: Tensor, lr: float, order: int) -> float:
    """Root mean square of the next term of the corrected field at ``y``."""
    this, after = (corrected(field, Euler(), lr, k, _method(k))(0.0, y) for k in (order, order + 1))
    return (after - this).square().mean().sqrt().item()


def _method(order: int) -> str:
    return "terms" if order <= 1 else "log-map"
