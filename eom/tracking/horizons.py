"""The open displacements of a run, taken along step by step."""

from collections.abc import Callable, Sequence
from math import isnan
from typing import Any

from torch import Tensor

from eom.calculus.potentials import Potential
from eom.objective.data import Batches
from eom.tracking.horizon import Horizon
from eom.tracking.log import Log
from eom.tracking.moment import Moment
from eom.tracking.observables import Observables
from eom.tracking.recorder import Recorder
from eom.tracking.snapshot import Pass, digests, in_modes
from eom.training.descent import Descent

LEGS = 8  # learning rates along a displacement; each takes about as long as all of a displacement with one


class Horizons:
    """Opens displacements, and writes each when its last step was taken.

    Args:
        data: the whole data that displacements are about, if not the batches of the steps.
        changed: says what makes the parameters no longer those that the run began with, if anything.
    """

    def __init__(
        self,
        recorder: Recorder,
        observables: Observables,
        data: Batches | None,
        log: Log,
        changed: Callable[[], str | None],
    ):
        self._recorder, self._observables, self._log, self._changed = recorder, observables, log, changed
        self._data = data
        self._open: list[Horizon] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def starts(self) -> list[int]:
        """The steps at which the open displacements began."""
        return [horizon.step for horizon in self._open]

    def open(self, moment: Moment) -> None:
        """Begin a displacement with this step."""
        length = self._recorder.settings.horizon
        assert length is not None  # else none is opened
        passes, modes = self._passes(moment.passes), moment.passes[0].modes
        potential = self._potential(passes, moment.descent)
        horizon = Horizon(moment.step, moment.time, moment.descent, moment.theta, length, potential, passes, modes)
        self._open.append(horizon)
        self._extend(horizon, moment, written=False)

    def step(self, moment: Moment, *, written: bool) -> None:
        """Take one step with every open displacement."""
        for horizon in list(self._open):
            if horizon.awaits is not None and (self._data is not None or digests(moment.passes) == horizon.awaits):
                horizon.passes, horizon.awaits = self._passes(moment.passes), None
                horizon.potential = self._potential(horizon.passes, horizon.descent)
            self._extend(horizon, moment, written=written)

    def withhold(self, why: str) -> None:
        """Give up whatever is open, and say why."""
        for horizon in list(self._open):
            self._withhold(horizon, why)

    def drop(self) -> None:
        self._open = []

    def end(self) -> None:
        """No step comes any more."""
        if self._open:
            self._log.event("horizon_incomplete", "the training ended before the horizon of a displacement", warn=False)

    def state_dict(self) -> list[dict[str, Any]]:
        return [horizon.state_dict() for horizon in self._open]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self._open = [Horizon.from_state_dict(horizon) for horizon in state]

    def _passes(self, passes: Sequence[Pass]) -> tuple[Pass, ...]:
        """The passes that a displacement is about; none where it is about all of the data."""
        return () if self._data is not None else tuple(passes)

    def _potential(self, passes: Sequence[Pass], descent: Descent) -> Potential:
        """The loss that flows descend. They take H v many times, to 1e-8: a difference of gradients is cheapest."""
        if self._data is not None:
            return self._recorder.potential_of(self._data, descent, "difference")
        return self._recorder.potential(passes, descent, "difference")

    def _extend(self, horizon: Horizon, moment: Moment, *, written: bool) -> None:
        why = "the weights were written to on the way" if written else self._recorder.withheld
        why = why or horizon.obstacle(moment.descent, moment.passes)
        horizon.advance(moment.descent.lr)
        if len(horizon.legs) > LEGS:
            why = (
                why or f"the learning rate changed more than {LEGS - 1} times on the way; the flows begin anew at each"
            )
        if why:
            self._withhold(horizon, why)
        elif horizon.complete:
            self._finish(horizon, moment.after)

    def _withhold(self, horizon: Horizon, why: str, *, warn: bool = True) -> None:
        self._open.remove(horizon)
        self._log.event("horizon_withheld", f"no displacement from step {horizon.step}: {why}", warn=warn)

    def _finish(self, horizon: Horizon, end: Tensor) -> None:
        if why := self._changed():
            self._withhold(horizon, why, warn=False)
            return
        with self._log.guard("a displacement", self.drop), in_modes(self._recorder.model, horizon.modes):
            if horizon.strayed(end):
                self._withhold(horizon, "the steps on the way were not gradient descent on the remembered batch")
                return
            self._open.remove(horizon)
            rows = horizon.rows(end, self._observables)
            given_up = sorted({row.source for row in rows if isnan(row.value) and row.quantity == "position_error"})
            if given_up:
                self._log.event(
                    "flow_given_up",
                    f"displacement from step {horizon.step}: the flow of {', '.join(given_up)} is too stiff to follow, "
                    "as where lr times sharpness is near 1 or above",
                )
            self._log.write(row for row in rows if not isnan(row.value))
