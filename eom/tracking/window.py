"""One record: what is predicted at a step, and the few steps after it over which rates are measured."""

from dataclasses import asdict, dataclass, field
from itertools import islice
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from eom.calculus.inner import dot
from eom.calculus.potentials import Potential
from eom.dynamics.correction import slopes
from eom.dynamics.runge_kutta import Euler
from eom.prediction.rates import Estimate, log_map, prediction_bars
from eom.records import Row
from eom.tracking.moment import Moment
from eom.tracking.observables import Derivative, Observables
from eom.tracking.snapshot import Pass, digests, repeats
from eom.training.descent import Descent

SPREAD = (
    5.0  # of the roundings of the further steps in a measured rate, over that of the first: |weights of the series|
)
Ahead = tuple[list[Tensor], list[Tensor]]  # values [q] and slopes [q] along a look-ahead


@dataclass
class Window:
    """A record at ``step``, open until ``length`` steps have been seen.

    ``values`` holds the observables [q] at theta_n, theta_{n+1}, ...; ``slopes`` their rates grad q(theta_n) . s_j
    along the slopes of the march; ``predicted`` the rates of order 0, 1, ... by the corrected fields. Where the
    gradient behind them is the run's own and was not computed again, ``own`` is that slope [n], ``bend`` what the next
    slope should differ from it by to first order (None at order 0), and ``held`` the rows that wait for the proof.
    """

    step: int
    time: float
    descent: Descent
    theta: Tensor
    length: int
    values: list[Tensor]
    slopes: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)
    derivative: Derivative | None = None
    potential: Potential | None = None
    passes: tuple[Pass, ...] = ()
    awaits: list[str] | None = None  # after a resume: digests of the batches that it goes on with
    ahead: Ahead | None = None  # after a resume: the look-ahead, for steps that do not go on alike
    own: Tensor | None = None
    bend: Tensor | None = None
    held: list[Row] = field(default_factory=list)
    rounding: Tensor | None = None  # [q] of the rates, by the rounding of the first step as it was added to the weights
    exact: bool = False  # a look-ahead's steps are rounded less than the run's own
    source: str = "measured"

    @property
    def complete(self) -> bool:
        return len(self.values) > self.length

    def add(self, values: Tensor, moment: Moment, *, along: bool) -> None:
        """One more step: the observables [q] after it and, if asked, the rate along its slope."""
        self.values.append(values)
        if along and self.derivative is not None:
            self.slopes.append(self._along(self.derivative, moment))

    def _along(self, derivative: Derivative, moment: Moment) -> Tensor:
        """[q] grad q(theta_n) . s_j, where s_j = -scale (g_j + decay theta_j)."""
        if not (derivative.by_tensor and moment.descent.uniform):
            return derivative(moment.slope.to(self.theta))
        scale, decay = float(self.descent.scale), float(self.descent.decay)
        # <theta_n, theta_j> grows by h <theta_n, s_j>, so that only the gradient has to be read
        squares = derivative.squares
        passed = squares + self.descent.lr / 2 * sum(s[: len(squares)].to(squares) for s in self.slopes)
        return derivative.rates(-scale * (derivative.half_along(moment.gradients) + decay * passed))

    def continues(self, descent: Descent, passes: list[Pass]) -> bool:
        """Whether a step is one more of the same map; without predictions, whether time goes on alike."""
        if self.derivative is None:
            return descent.lr == self.descent.lr
        return descent.same_as(self.descent) and repeats(passes, self.passes)

    def turned_as_predicted(self, moment: Moment) -> bool:
        """Whether the slope of the step after the record differs from its own by what H v says, along that.

        H v was a difference from the run's own gradient over a small step: another loss in it would be there many
        times as large. What kinks and higher orders add lies across.
        """
        if self.own is None or self.bend is None:
            return True
        turn = moment.slope.to(self.own) - self.own
        return bool(0.8 <= dot(turn, self.bend) / dot(self.bend, self.bend) <= 1.25)

    def obstacle(self) -> str | None:
        """Why a look-ahead cannot take the place of the run's further steps, if so."""
        if self.potential is None and self.ahead is None:
            return "no six steps like its own came after it, and nothing was predicted to look ahead with"
        return "its batch was written to in place" if any(p.changed for p in self.passes) else None

    def look_ahead(self, observables: Observables, bars: bool) -> tuple[Tensor, Ahead]:
        """A march of a copy from theta_n on its own objective, in place of the run's further steps; its first slope."""
        assert self.potential is not None  # else there is an obstacle
        flow = self.descent.field(self.potential)
        values, along, first = [observables.values(self.theta)], [], None
        for theta, slope in islice(slopes(flow, Euler(), 0.0, self.descent.lr, self.theta), self.length):
            first = slope if first is None else first
            values.append(observables.values(torch.add(theta, slope, alpha=self.descent.lr)))
            if bars and self.derivative:
                along.append(self.derivative(slope))
        assert first is not None  # the length is positive
        return first, (values, along)

    def take(self, ahead: Ahead) -> None:
        """Complete the record by a look-ahead."""
        self.source = "look-ahead"
        self.values, self.slopes = ahead

    def rows(self, labels: list[tuple[str, str]]) -> list[Row]:
        """The measured and the predicted rates, each with its bar; none where there is no number."""
        values = torch.stack(self.values)
        measured = log_map(values.diff(dim=0) / self.descent.lr)
        if self.rounding is not None and not (self.exact and self.source == "look-ahead"):
            measured = Estimate(measured.value, measured.bar + SPREAD * self.rounding)
        estimates = {self.source: measured}
        along = log_map(torch.stack(self.slopes)) if len(self.slopes) == self.length else None
        if along is not None and self.source == "measured":
            estimates["reconstructed"] = along
        if self.predicted:
            bars = prediction_bars(self.predicted, along)
            estimates |= {f"order-{k}": estimate for k, estimate in enumerate(bars)}
        return self.held + [
            Row(self.step, self.time, group, f"{quantity}_rate", source, value, None if bar != bar else bar)
            for source, estimate in estimates.items()
            for (quantity, group), value, bar in zip(
                labels, estimate.value.tolist(), estimate.bar.tolist(), strict=True
            )
            if isfinite(value)
        ]

    def state_dict(self, ahead: Ahead | None) -> dict[str, Any]:
        """All but the loss: its batches are known again by digests; ``ahead`` stands in where others come."""
        kept = ("step", "time", "theta", "length", "source", "own", "bend", "rounding", "exact")
        state = {name: getattr(self, name) for name in kept}
        state |= {name: list(getattr(self, name)) for name in ("values", "slopes", "predicted")}
        awaits = digests(self.passes) if self.awaits is None else self.awaits
        return state | {
            "descent": asdict(self.descent),
            "awaits": awaits if self.predicted else None,
            "ahead": ahead,
            "held": [tuple(row) for row in self.held],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], observables: Observables) -> "Window":
        """The window of a saved state."""
        kept: dict[str, Any] = {
            **state,
            **{name: list(state[name]) for name in ("values", "slopes", "predicted")},
            "descent": Descent(**state["descent"]),
            "held": [Row(*row) for row in state["held"]],
        }
        window = cls(**kept)
        if window.predicted:
            window.derivative = observables.derivative(window.theta)
        return window
