"""The follower: the open records of a run, windows and horizons, taken along step by step."""

from collections.abc import Callable, Sequence
from math import isnan
from typing import Any

from torch import Tensor

from eom.calculus.products import Potential
from eom.dynamics.observable import GroupSum
from eom.objective.data import Batches
from eom.tracking.horizon import Horizon
from eom.tracking.log import Log
from eom.tracking.observables import Observables
from eom.tracking.recorder import Moment, Recorder
from eom.tracking.snapshot import Pass, digests, in_modes
from eom.tracking.window import Ahead, Window
from eom.training.descent import Descent


class Follower:
    """Opens a record where one is due, and writes its rates when the steps after it have been seen.

    Args:
        groups: name -> indices. data: the whole data that displacements are about, if not the batches of the steps.
        changed: says what makes the parameters no longer those that the run began with, if anything.
    """

    def __init__(
        self,
        recorder: Recorder,
        observables: Observables,
        groups: dict[str, Tensor],
        data: Batches | None,
        log: Log,
        changed: Callable[[], str | None],
    ):
        self._recorder, self._observables, self._log, self._changed = recorder, observables, log, changed
        self._names, self._total, self._data = list(groups), GroupSum(groups), data
        self.moving = False  # each step descends another function, as its buffers move
        self._windows: list[Window] = []
        self._horizons: list[Horizon] = []
        self._reason: str | None = None  # why the latest record has no predictions

    def __bool__(self) -> bool:
        return bool(self._windows or self._horizons)

    @property
    def busy(self) -> bool:
        """Whether the rates of a record are still awaited."""
        return bool(self._windows)

    def drop(self) -> None:
        """Give up whatever is open."""
        self._windows, self._horizons = [], []

    def step(self, moment: Moment, due: bool) -> None:
        """Take one step with every open record, and open a new one where it is due."""
        for opened in (*self._windows, *self._horizons):
            self._adopt(opened, moment)
        written = moment.written and not moment.descent.withheld
        if written:
            self._log.event(
                "weights_written",
                "the weights were written to between two steps: an open record is completed by a look-ahead, an open "
                "displacement is withheld",
            )
        for window in list(self._windows):
            alike = window.continues(moment.descent, moment.passes)
            if not alike or (written and window.potential is not None):
                self._finish(window)
            elif len(window.values) == 2 and not window.turned_as_predicted(moment):
                self._prove(window)
        for horizon in list(self._horizons):
            self._extend(horizon, moment, written)
        if due:
            self._record(moment)
        if self._windows:
            values = self._observables.at(moment.parameters)
            for window in list(self._windows):
                window.add(values, moment, along=self._recorder.settings.bars)
                alone = window.potential is not None and (self.moving or any(p.once for p in window.passes))
                if window.complete or alone:
                    self._finish(window)

    def withhold(self, reason: str | None) -> None:
        """Say why nothing is predicted at a record, once for every stretch of them; what ended predictions was said."""
        if reason and reason not in (self._reason, self._recorder.withheld):
            self._log.event("withheld", f"predictions withheld, measurements go on: {reason}")
        self._reason = reason

    def end(self) -> None:
        """Write what can be known of the open records when no step comes any more."""
        for window in list(self._windows):
            with self._log.guard("the last records"):
                self._finish(window)
        if self._horizons:
            self._log.event("horizon_incomplete", "the training ended before the horizon of a displacement", warn=False)

    def state_dict(self) -> dict[str, Any]:
        windows = [w.state_dict(None if w.obstacle() else self._ahead(w)) for w in self._windows]
        return {"windows": windows, "horizons": [h.state_dict() for h in self._horizons]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows = [Window.from_state_dict(w, self._observables) for w in state["windows"]]
        self._horizons = [Horizon.from_state_dict(h) for h in state["horizons"]]

    def _adopt(self, opened: Window | Horizon, moment: Moment) -> None:
        """After a resume: give an open record its batches and its loss back."""
        if opened.awaits is None:
            return
        if isinstance(opened, Horizon) and (self._data is not None or digests(moment.passes) == opened.awaits):
            opened.passes, opened.awaits = self._passes_of_flows(moment.passes), None
            opened.potential = self._potential_of_flows(opened.passes, opened.descent)
        elif isinstance(opened, Window) and digests(moment.passes) == opened.awaits:
            opened.passes, opened.awaits = tuple(moment.passes), None
            opened.potential = self._recorder.potential(opened.passes, opened.descent)

    def _record(self, moment: Moment) -> None:
        rows, window = self._recorder.measure(moment)
        self._log.write(rows)
        if window is None:
            return
        reason = self._recorder.obstacle(moment)
        self.withhold(reason)
        if reason is None:
            with self._log.guard("a prediction"), in_modes(self._recorder.model, moment.passes[0].modes):
                self._log.write(self._recorder.predict(moment, window))
            if window.potential is None:
                self._withhold_horizons("a step on the way was not gradient descent on the remembered batch")
        self._windows.append(window)
        settings = self._recorder.settings
        if settings.horizon and (self._recorder.records - 1) % settings.horizons == settings.horizons // 2:
            self._open_horizon(moment, window, settings.horizon)

    def _finish(self, window: Window) -> None:
        """Write the rates of a record; where the run did not go on with the same step map, from a look-ahead."""
        self._windows.remove(window)
        why = self._changed() or (None if window.complete else self._look_ahead(window))
        if why:
            self._log.event("window_incomplete", f"no rates for the record of step {window.step}: {why}", warn=False)
        else:
            self._log.write(window.rows(self._observables.labels))

    def _look_ahead(self, window: Window) -> str | None:
        """Complete a record by a look-ahead; or say why not."""
        why = window.obstacle()
        ahead = None if why else self._ahead(window)
        if ahead is None:
            return why or "the run's own gradient was not that of the remembered batch"
        window.take(ahead)
        return None

    def _ahead(self, window: Window) -> Ahead | None:
        """The look-ahead of a record without an obstacle; none where its first slope refutes the prediction."""
        if window.potential is None:
            return window.ahead
        with in_modes(self._recorder.model, window.passes[0].modes):
            slope, ahead = window.look_ahead(self._observables, self._recorder.settings.bars)
        return ahead if self._confirmed(window, slope) else None

    def _prove(self, window: Window) -> None:
        """Compute the gradient behind a record again."""
        assert window.potential is not None  # it continues
        with in_modes(self._recorder.model, window.passes[0].modes):
            self._confirmed(window, window.descent.field(window.potential)(0.0, window.theta))

    def _confirmed(self, window: Window, slope: Tensor) -> bool:
        rows = self._recorder.confirm(window, slope) if window.own is not None else []
        self._log.write(rows)
        return not rows

    def _open_horizon(self, moment: Moment, window: Window, length: int) -> None:
        if window.potential is None or self.moving:
            why = "predictions are withheld" if window.potential is None else "each step descends another function"
            self._log.event("horizon_withheld", f"no displacement from here: {why}", warn=False)
            return
        passes, modes = self._passes_of_flows(moment.passes), window.passes[0].modes
        potential = self._potential_of_flows(passes, moment.descent)
        horizon = Horizon(moment.step, moment.time, moment.descent, moment.theta, length, potential, passes, modes)
        self._horizons.append(horizon)
        self._extend(horizon, moment, written=False)

    def _passes_of_flows(self, passes: Sequence[Pass]) -> tuple[Pass, ...]:
        """The passes that a displacement is about; none where it is about all of the data."""
        return () if self._data is not None else tuple(passes)

    def _potential_of_flows(self, passes: Sequence[Pass], descent: Descent) -> Potential:
        """The loss that flows descend. They take H v many times, to 1e-8: a difference of gradients is cheapest."""
        if self._data is not None:
            return self._recorder.potential_of(self._data, descent, "difference")
        return self._recorder.potential(passes, descent, "difference")

    def _extend(self, horizon: Horizon, moment: Moment, written: bool) -> None:
        why = "the weights were written to on the way" if written else self._recorder.withheld
        why = why or horizon.obstacle(moment.descent, moment.passes)
        if why:
            self._horizons.remove(horizon)
            self._log.event("horizon_withheld", f"no displacement from step {horizon.step}: {why}")
            return
        horizon.advance(moment.descent.lr)
        if horizon.complete:
            self._horizons.remove(horizon)
            self._finish_horizon(horizon, moment.after)

    def _finish_horizon(self, horizon: Horizon, end: Tensor) -> None:
        if why := self._changed():
            self._log.event("horizon_withheld", f"no displacement from step {horizon.step}: {why}", warn=False)
            return
        with self._log.guard("a displacement"), in_modes(self._recorder.model, horizon.modes):
            rows = horizon.rows(end, self._observables, self._total, self._names)
            given_up = sorted({row.source for row in rows if isnan(row.value) and row.quantity == "position_error"})
            if given_up:
                self._log.event(
                    "flow_given_up",
                    f"displacement from step {horizon.step}: the flow of {', '.join(given_up)} is too stiff to follow, "
                    "as where lr times sharpness is near 1 or above",
                )
            self._log.write(row for row in rows if not isnan(row.value))

    def _withhold_horizons(self, why: str) -> None:
        for horizon in self._horizons:
            self._log.event("horizon_withheld", f"no displacement from step {horizon.step}: {why}")
        self._horizons = []
