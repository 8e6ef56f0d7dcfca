"""The follower: the open records of a run, windows and horizons, taken along step by step."""

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from eom.tracking.horizons import Horizons
from eom.tracking.log import Log
from eom.tracking.observables import Observables
from eom.tracking.recorder import Moment, Recorder
from eom.tracking.snapshot import digests, in_modes
from eom.tracking.window import Ahead, Window


class Follower:
    """Opens a record where one is due, and writes its rates when the steps after it have been seen.

    Args:
        changed: says what makes the parameters no longer those that the run began with, if anything.
    """

    def __init__(
        self,
        recorder: Recorder,
        observables: Observables,
        horizons: Horizons,
        log: Log,
        changed: Callable[[], str | None],
    ):
        self._recorder, self._observables, self._log, self._changed = recorder, observables, log, changed
        self._horizons = horizons
        self.moving = False  # each step descends another function, as its buffers move
        self._windows: list[Window] = []
        self._reason: str | None = None  # why the latest record has no predictions

    def __bool__(self) -> bool:
        return bool(self._windows or self._horizons)

    @property
    def oldest(self) -> int:
        """The first step whose batches an open record needs; beyond all steps where none is open."""
        return min([*(w.step for w in self._windows), *self._horizons.starts], default=sys.maxsize)

    @property
    def busy(self) -> bool:
        """Whether the rates of a record are still awaited."""
        return bool(self._windows)

    def drop(self) -> None:
        """Give up whatever is open."""
        self._windows = []
        self._horizons.drop()

    def step(self, moment: Moment, due: bool) -> None:
        """Take one step with every open record, and open a new one where it is due."""
        for window in self._windows:
            self._adopt(window, moment)
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
        self._horizons.step(moment, written=written)
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
        self._horizons.end()

    def state_dict(self) -> dict[str, Any]:
        alone = self._recorder.ranks is None  # else a look-ahead takes all ranks, which do not wait now
        windows = [w.state_dict(self._ahead(w) if alone and not w.obstacle() else None) for w in self._windows]
        return {"windows": windows, "horizons": self._horizons.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows = [Window.from_state_dict(w, self._observables) for w in state["windows"]]
        self._horizons.load_state_dict(state["horizons"])

    def _adopt(self, window: Window, moment: Moment) -> None:
        """After a resume: give an open record its batches and its loss back."""
        if window.awaits is not None and digests(moment.passes) == window.awaits:
            window.passes, window.awaits = tuple(moment.passes), None
            window.potential = self._recorder.potential(window.passes, window.descent)

    def _record(self, moment: Moment) -> None:
        rows, window = self._recorder.measure(moment)
        self._log.write(rows)
        if self._recorder.quantities and moment.passes and not any(p.changed for p in moment.passes):
            with self._log.guard("a quantity"), in_modes(self._recorder.model, moment.passes[0].modes):
                self._log.write(self._recorder.measure_others(moment))
        if window is None:
            return
        reason = self._recorder.obstacle(moment)
        self.withhold(reason)
        if reason is None:
            with self._log.guard("a prediction"), in_modes(self._recorder.model, moment.passes[0].modes):
                self._log.write(self._recorder.predict(moment, window))
            if window.potential is None:
                self._horizons.withhold("a step on the way was not gradient descent on the remembered batch")
        self._windows.append(window)
        settings = self._recorder.settings
        if settings.horizon and (self._recorder.records - 1) % settings.horizons == settings.horizons // 2:
            if window.potential is None or self.moving:
                why = "each step descends another function" if self.moving else "predictions are withheld"
                self._log.event("horizon_withheld", f"no displacement from step {moment.step}: {why}", warn=False)
            else:
                self._horizons.open(moment)

    def _finish(self, window: Window) -> None:
        """Write the rates of a record; where the run did not go on with the same step map, from a look-ahead."""
        self._windows.remove(window)
        why = self._changed() or (None if window.complete else self._look_ahead(window))
        if why:
            rewritten = any(p.changed for p in window.passes)
            said = f"no rates for the record of step {window.step}: {why}"
            self._log.event("batch_rewritten" if rewritten else "window_incomplete", said, warn=rewritten)
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
