"""Where the flows of order 0, 1, 2 arrive after a horizon of N steps, to set against where the run went."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.dynamics.correction import corrected
from eom.dynamics.field import SmoothField
from eom.dynamics.integrate import Flow, flow_with_error
from eom.dynamics.runge_kutta import Euler

# Integration error allowed per step of the solver, as a share of what the next order changes.
SHARE = 1e-3


@dataclass(frozen=True)
class Leg:
    """``steps`` steps of gradient descent with one learning rate."""

    lr: float
    steps: int

    @property
    def time(self) -> float:
        return self.lr * self.steps


def flows(field: SmoothField, theta: Tensor, legs: Sequence[Leg], order: int) -> list[Flow]:
    """End states [n] of the corrected flows of order 0 .. ``order`` from ``theta`` [n], with integration errors.

    Orders 0 and 1 by terms, higher ones by the log map (third derivatives are not right through every module).
    Each flow is integrated to a tolerance set by the term that it leaves out.
    """
    ends = []
    for k in range(order + 1):
        y, error = theta, torch.zeros_like(theta)
        for leg in legs:
            this, after = (_field(field, leg.lr, j) for j in (k, k + 1))
            left_out = (after(0.0, y) - this(0.0, y)).square().mean().sqrt().item()
            floor = 1e-14 * y.square().mean().sqrt().item()
            y, own = flow_with_error(this, y, leg.time, rtol=0.0, atol=max(SHARE * left_out * leg.time, floor))
            error = error + own
        ends.append(Flow(y, error))
    return ends


def _field(field: SmoothField, lr: float, order: int):
    return corrected(field, Euler(), lr, order, "terms" if order <= 1 else "log-map")
