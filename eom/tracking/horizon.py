"""A displacement: where the run is after N steps, against where the flows from the same start arrive."""

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from eom.calculus.potentials import Potential
from eom.dynamics.runge_kutta import Euler
from eom.dynamics.stepper import end
from eom.prediction.displacement import Leg, flows
from eom.records import Row
from eom.tracking.observables import Observables
from eom.tracking.snapshot import Pass, digests, repeats
from eom.training.descent import Descent

ORDER = 2  # displacements are compared with the flows of order 0, 1, 2


@dataclass
class Horizon:
    """A displacement that started at ``step`` and ends after ``length`` steps; ``legs`` are the steps so far."""

    step: int
    time: float
    descent: Descent
    theta: Tensor
    length: int
    potential: Potential | None
    passes: tuple[Pass, ...] = ()  # none where the displacement is about all of the data
    modes: tuple[bool, ...] = ()  # of the modules, train or eval
    awaits: list[str] | None = None  # after a resume: digests of the batches that it goes on with
    legs: list[Leg] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return sum(leg.steps for leg in self.legs) >= self.length

    def obstacle(self, descent: Descent, passes: list[Pass]) -> str | None:
        """Why a step does not belong to the flows from the start, if so. Another learning rate is no obstacle."""
        if descent.lr == 0:  # nothing moves
            return None
        if descent.withheld:
            return descent.withheld
        if not descent.alike(self.descent):
            return "the weight decay, or the ratio of learning rates, changed on the way"
        if self.potential is None:
            return "the batch after the resume is another one"
        if self.passes and not repeats(passes, self.passes):
            return "the batches changed on the way; for mini-batch training pass data=, the whole data"
        return None

    def strayed(self, arrived: Tensor) -> bool:
        """Whether the run went elsewhere, to ``arrived`` [n], than gradient descent on its batch, beyond rounding.

        Not asked where the displacement is about all of the data, which the run saw in parts.
        """
        if not self.passes or self.potential is None:
            return False
        theta, flow = self.theta, self.descent.field(self.potential)
        for leg in self.legs:
            theta = end(flow, Euler(), theta, h=leg.lr, steps=leg.steps)
        rounding = torch.finfo(arrived.dtype).eps ** 0.5
        return not torch.dist(theta, arrived) <= rounding * torch.dist(self.theta, arrived)

    def advance(self, lr: float) -> None:
        """Count one step with learning rate ``lr``."""
        if self.legs and self.legs[-1].lr == lr:
            self.legs[-1] = Leg(lr, self.legs[-1].steps + 1)
        else:
            self.legs.append(Leg(lr, 1))

    def rows(self, arrived: Tensor, observables: Observables) -> list[Row]:
        """Displacements measured at ``arrived`` [n] and predicted, and the distance of each flow from the run.

        The flows are computed in float64. The bar of order k is what order k + 1 changes, and the error of the
        integration.
        """
        assert self.potential is not None  # else there was an obstacle
        start, arrived = self.theta.double(), arrived.double()
        inner, labels = observables.sum.inner, [("position_error", group) for group in observables.groups]
        legs = [leg for leg in self.legs if leg.lr > 0]
        ends = flows(self.descent.field(self.potential), start, legs, ORDER)
        at_start, at_end = observables.values(start), observables.values(arrived)
        rows = self._rows(observables.labels, "_displacement", "measured", at_end - at_start, None)
        for k, (this, after) in enumerate(pairwise(ends)):
            value = observables.values(this.state) - at_start
            error = observables.derivative(this.state)(this.error).abs()
            bar = (observables.values(after.state) - observables.values(this.state)).abs() + error
            rows += self._rows(observables.labels, "_displacement", f"order-{k}", value, bar)
            off, gap = this.state - arrived, after.state - this.state
            distance, bar = inner(off, off).sqrt(), inner(gap, gap).sqrt() + inner(this.error, this.error).sqrt()
            rows += self._rows(labels, "", f"order-{k}", distance, bar)
        return rows

    def _rows(self, labels, suffix: str, source: str, values: Tensor, bars: Tensor | None) -> list[Row]:
        bars = torch.full_like(values, torch.nan) if bars is None else bars
        return [
            Row(self.step, self.time, group, quantity + suffix, source, value, None if bar != bar else bar)
            for (quantity, group), value, bar in zip(labels, values.tolist(), bars.tolist(), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """All but the loss: its batches are known again by their digests."""
        kept = ("step", "time", "theta", "length", "modes")
        state = {name: getattr(self, name) for name in kept}
        legs = [(leg.lr, leg.steps) for leg in self.legs]
        awaits = digests(self.passes) if self.awaits is None else self.awaits
        return state | {"descent": asdict(self.descent), "legs": legs, "awaits": awaits}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Horizon":
        """The horizon of a saved state; its potential is found again with its batches."""
        return cls(
            **state
            | {
                "descent": Descent(**state["descent"]),
                "legs": [Leg(*x) for x in state["legs"]],
                "potential": None,
            }
        )
