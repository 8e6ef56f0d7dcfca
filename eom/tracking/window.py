"""One record: what is predicted at a step, and the few steps after it over which rates are measured."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from eom.calculus.products import Potential
from eom.dynamics.correction import slopes
from eom.dynamics.runge_kutta import Euler
from eom.prediction.rates import log_map, prediction_bars
from eom.records import Row
from eom.tracking.observables import Observables
from eom.tracking.snapshot import Pass, digests, repeats
from eom.training.descent import Descent


@dataclass
class Window:
    """A record at ``step``, open until ``length`` steps have been seen.

    ``values`` holds the observables [q] at theta_n, theta_{n+1}, ...; ``slopes`` their rates grad q(theta_n) . s_j
    along the slopes of the march; ``predicted`` the rates of order 0, 1, ... by the corrected fields.
    """

    step: int
    time: float
    descent: Descent
    theta: Tensor
    length: int
    values: list[Tensor]
    slopes: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)
    derivative: Callable[[Tensor], Tensor] | None = None
    potential: Potential | None = None
    passes: tuple[Pass, ...] = ()
    awaits: tuple[str, ...] | None = None  # after a resume: digests of the batches that it goes on with
    source: str = "measured"

    @property
    def complete(self) -> bool:
        return len(self.values) > self.length

    def add(self, values: Tensor, slope: Tensor | None) -> None:
        """One more step: the observables [q] after it, and its slope [n]."""
        self.values.append(values)
        if slope is not None and self.derivative is not None:
            self.slopes.append(self.derivative(slope.to(self.theta)))

    def continues(self, descent: Descent, passes: list[Pass]) -> bool:
        """Whether a step is one more of the same map; without predictions, whether time goes on alike."""
        if self.derivative is None:
            return descent.lr == self.descent.lr
        return descent.same_as(self.descent) and repeats(passes, self.passes)

    def obstacle(self) -> str | None:
        """Why a look-ahead cannot take the place of the run's further steps, if so."""
        if self.potential is None:
            return "the steps after it were not alike, and nothing was predicted to look ahead with"
        return "its batch was written to in place" if any(p.changed for p in self.passes) else None

    def look_ahead(self, observables: Observables, bars: bool) -> None:
        """March a copy from theta_n on its own objective, in place of the run's further steps."""
        assert self.potential is not None  # else there is an obstacle
        flow = self.descent.field(self.potential)
        ahead = slopes(flow, Euler(), 0.0, self.descent.lr, self.theta)
        self.source = "look-ahead"
        self.values, self.slopes = self.values[:1], []
        for theta, slope in islice(ahead, self.length):
            if bars and self.derivative:
                self.slopes.append(self.derivative(slope))
            self.values.append(observables.values(theta + self.descent.lr * slope))

    def rows(self, labels: list[tuple[str, str]]) -> list[Row]:
        """The measured and the predicted rates, each with its bar."""
        values = torch.stack(self.values)
        measured = log_map(values.diff(dim=0) / self.descent.lr)
        estimates = {self.source: measured}
        along = log_map(torch.stack(self.slopes)) if len(self.slopes) == self.length else None
        if along is not None and self.source == "measured":
            estimates["reconstructed"] = along
        if self.predicted:
            bars = prediction_bars(self.predicted, along)
            estimates |= {f"order-{k}": estimate for k, estimate in enumerate(bars)}
        return [
            Row(self.step, self.time, group, f"{quantity}_rate", source, value, None if bar != bar else bar)
            for source, estimate in estimates.items()
            for (quantity, group), value, bar in zip(
                labels, estimate.value.tolist(), estimate.bar.tolist(), strict=True
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """All but the loss: its batches are known again by their digests."""
        kept = ("step", "time", "descent", "theta", "length", "values", "slopes", "predicted", "source")
        state = {name: getattr(self, name) for name in kept}
        awaits = digests(self.passes) if self.awaits is None else self.awaits
        return state | {"descent": asdict(self.descent), "awaits": awaits if self.predicted else None}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], observables: Observables) -> "Window":
        """The window of a saved state."""
        kept: dict[str, Any] = {**state, "descent": Descent(**state["descent"])}
        window = cls(**kept)
        if window.predicted:
            window.derivative = observables.derivative(window.theta)
        return window
