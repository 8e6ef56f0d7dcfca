"""The tracker: follows a running training from its optimizer's step hooks, and writes what it finds."""

import time as clock
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.dynamics.observable import GroupSum
from eom.errors import EomError, ParametersError, RecordsNotWritten, TrackingWarning
from eom.objective import Objective
from eom.objective.data import Batch, Batches
from eom.objective.objective import LossFunction, check_scalar
from eom.objective.parameters import Groups, layout_of, make_groups, plain, trainable
from eom.objective.replay import Replay
from eom.prediction.rates import TERMS
from eom.records import Row, Run, RunWriter, open_run
from eom.tracking.description import UNITS, describe_objective, describe_optimizer, describe_start, now
from eom.tracking.horizon import Horizon
from eom.tracking.observables import Observables, UserObservable, check_names
from eom.tracking.recorder import Moment, Recorder, Settings
from eom.tracking.schedule import Budget, Every, make_schedule
from eom.tracking.snapshot import Pass, accumulates, digests, versions
from eom.tracking.window import Window
from eom.training.descent import Descent, check_owner, read, unsupported

if TYPE_CHECKING:
    import pandas as pd

EVENTS_PER_KIND = 100


class Tracker:
    """Follows one training; made by ``eom.track``, used as a context manager."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        run: str | Path,
        every: Every,
        settings: Settings,
        own: Mapping[str, UserObservable],
        groups: Groups,
        data: Any,
        resume: int | Mapping[str, Any] | None,
    ):
        self._model, self._called, self._optimizer, self._loss_fn = plain(model), model, optimizer, loss_fn
        self._settings, self._schedule, self._groups = settings, make_schedule(every), groups
        self._layout = layout_of(self._model)
        self._parameters = list(trainable(self._model).values())
        check_owner(optimizer, self._model)
        check_names(own, tuple(UNITS))
        members = make_groups(self._layout, groups)
        self._names, self._total = list(members), GroupSum(members)
        self._observables = Observables(self._layout, members, own)
        self._recorder = Recorder(self._model, loss_fn, settings, self._observables, self._notice)
        self._data = None if data is None else Batches(data)
        self._step, self._time, self._started = 0, 0.0, False
        self._passes: list[Pass] = []
        self._losses: list[Tensor] = []
        self._theta: Tensor | None = None
        self._windows: list[Window] = []
        self._horizons: list[Horizon] = []
        self._written: set[tuple[int, str]] = set()  # (step, quantity) of open records, written before a resume
        self._counts: dict[str, int] = {}
        self._spent = 0.0
        self._marks: list[tuple[float, float]] = []  # (clock, seconds spent here) after each step, for a budget
        self._handles: list[Any] = []
        self._path = Path(run)
        manifest = describe_start() | {
            "settings": settings.plain()
            | {"every": every if isinstance(every, int | str) else "callable"}
            | describe_optimizer(optimizer),
            "units": UNITS | {name + end: "own" for name in own for end in ("", "_rate", "_displacement")},
            "group_kind": groups if isinstance(groups, str) else "user",
            "predictions": {"withheld": None},
        }
        if resume is None:
            self._writer = RunWriter.create(run, manifest)
        else:
            self._resume(resume, manifest)
        self._due = self._is_due()

    @property
    def run(self) -> Run:
        """The run as it stands on disk."""
        return open_run(self._path)

    def __enter__(self) -> "Tracker":
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is not None:
            self._notice("interrupted", f"the training ended with {kind.__name__} at step {self._step}", warn=False)
        for window in list(self._windows):
            with self._guard("the last records"):
                self._finish(window)
        if self._horizons:
            self._notice("horizon_incomplete", "the training ended before the horizon of a displacement", warn=False)
        with self._guard("closing the run"):
            finished = {"finished": now()} if kind is None else {}
            self._writer.update(steps=self._step, records=self._recorder.records, **finished)
        with self._guard("closing the run"):
            self._writer.close()

    def loss(self, batch: Batch) -> Tensor:
        """The training loss of ``batch``; remembers the batch, and the states before the forward pass.

        Call it in place of the loss function, before ``backward`` and ``optimizer.step``; several times before one
        step where gradients are accumulated (the loss of the step is then taken to be their mean).

        Raises:
            EomError: before the first step, a loss that cannot be followed.
        """
        if not torch.is_grad_enabled():
            return self._loss_fn(self._called, batch)
        self.observe(batch)
        value = self._loss_fn(self._called, batch)
        with self._guard("the loss"):
            if self._passes:
                self._passes[-1].note_randomness()
            check_scalar(value)
            self._losses.append(value.detach())
        return value

    def observe(self, batch: Batch) -> None:
        """Remember a batch whose loss is computed elsewhere; call it before the forward pass."""
        if not self._started:
            self._start(batch)
        with self._guard("remembering a batch"):
            if self._losses and not accumulates(self._parameters):
                self._passes, self._losses = [], []
            if self._due or self._windows or self._horizons:
                if self._due and not self._passes:
                    self._theta = self._flat()
                self._passes.append(Pass(batch, Replay.capture(self._model), versions(batch)))

    def state_dict(self) -> dict[str, Any]:
        """What ``resume`` needs to continue without a seam; save it beside the model's and the optimizer's."""
        return {
            "step": self._step,
            "time": self._time,
            "recorder": self._recorder.state_dict(),
            "every": self._schedule.every if isinstance(self._schedule, Budget) else None,
            "windows": [w.state_dict() for w in self._windows],
            "horizons": [h.state_dict() for h in self._horizons],
        }

    def _start(self, batch: Batch) -> None:
        """Test the loss on the first batch, and describe the run; errors are raised."""
        objective = Objective(
            self._model,
            self._loss_fn,
            Batches(batch, single=True),
            groups=self._groups,
            product=self._settings.product,
        )
        entries: dict[str, Any] = describe_objective(objective, batch)
        self._observables.derivative(objective.theta())  # raises where an observable cannot be followed
        reason = unsupported(self._optimizer)
        if reason:
            entries["predictions"] = {"withheld": reason}
            self._notice("withheld", f"predictions withheld, measurements go on: {reason}")
        elif self._settings.order is not None:
            entries["self_test"] = self._recorder.adopt(objective.check(self._settings.order))
        self._started = True
        with self._guard("the manifest"):
            self._writer.update(**entries)

    def _before_step(self, *_: object) -> None:
        with self._guard("a step"):
            if self._due and self._theta is None:
                self._theta = self._flat()

    def _after_step(self, *_: object) -> None:
        lr = 0.0
        with self._guard("a step"), torch.no_grad():
            lr = max(float(group["lr"]) for group in self._optimizer.param_groups)
            self._look_at_losses()
            if self._due or self._windows or self._horizons:
                self._follow()
        self._step += 1
        self._time += lr
        self._passes, self._losses, self._theta = [], [], None
        self._due = self._is_due()

    def _look_at_losses(self) -> None:
        if self._losses and not all(bool(torch.isfinite(x)) for x in self._losses) and not self._recorder.withheld:
            self._recorder.withheld = f"the loss was not finite at step {self._step}"
            self._notice("loss_not_finite", f"{self._recorder.withheld}; predictions are withheld from here on")

    def _follow(self) -> None:
        """One step of every open record, and a new record where one is due."""
        descent, after, gradient = (
            read(self._optimizer, self._parameters),
            self._flat(),
            self._flat_gradient(),
        )
        theta = descent.before(after, gradient) if self._theta is None else self._theta
        for opened in (*self._windows, *self._horizons):
            self._adopt(opened)
        for window in list(self._windows):
            if not window.continues(descent, self._passes):
                self._finish(window)
        for horizon in list(self._horizons):
            self._extend(horizon, descent, after)
        if self._due:
            self._record(self._moment(descent, theta, after, gradient))
        if self._windows:
            values = self._observables.values(after)
            slope = -descent.scale.to(theta) * (gradient + descent.decay.to(theta) * theta)
            for window in list(self._windows):
                window.add(values, slope if self._settings.bars else None)
                if window.complete:
                    self._finish(window)

    def _adopt(self, opened: Window | Horizon) -> None:
        """After a resume: give an open record its batches and its loss back."""
        if opened.awaits is None:
            return
        if self._data is not None and isinstance(opened, Horizon):
            opened.potential, opened.awaits = self._recorder.potential_of(self._data, opened.descent), None
        elif digests(self._passes) == opened.awaits:
            opened.passes, opened.awaits = tuple(self._passes), None
            opened.potential = self._recorder.potential(opened.passes, opened.descent)

    def _moment(self, descent: Descent, theta: Tensor, after: Tensor, gradient: Tensor) -> Moment:
        untouched = all(p.grad is None or p.grad._version == 0 for p in self._parameters)
        loss = float(torch.stack(self._losses).double().mean()) if self._losses else float("nan")
        return Moment(self._step, self._time, descent, self._passes, theta, after, gradient, untouched, loss)

    def _record(self, moment: Moment) -> None:
        if [id(p) for p in trainable(self._model).values()] != [id(p) for p in self._parameters]:
            raise ParametersError("parameters were added, replaced, frozen or unfrozen since the run began")
        rows, window = self._recorder.record(moment)
        self._write(rows)
        if window is None:
            return
        self._windows.append(window)
        settings = self._settings
        if settings.horizon and (self._recorder.records - 1) % settings.horizons == settings.horizons // 2:
            self._open_horizon(moment, window, settings.horizon)

    def _finish(self, window: Window) -> None:
        """Write the rates of a record; where the run did not go on with the same step map, from a look-ahead."""
        self._windows.remove(window)
        if not window.complete:
            why = window.obstacle()
            if why:
                self._notice("window_incomplete", f"no rates for the record of step {window.step}: {why}", warn=False)
                return
            window.look_ahead(self._observables, self._settings.bars)
        self._write(window.rows(self._observables.labels))

    def _open_horizon(self, moment: Moment, window: Window, length: int) -> None:
        potential = window.potential
        if potential is not None and self._data is not None:
            potential = self._recorder.potential_of(self._data, moment.descent)
        if potential is None:
            self._notice("horizon_withheld", "no displacement from here: predictions are withheld", warn=False)
            return
        passes = () if self._data is not None else window.passes
        horizon = Horizon(moment.step, moment.time, moment.descent, moment.theta, length, potential, passes)
        self._horizons.append(horizon)
        self._extend(horizon, moment.descent, moment.after)

    def _extend(self, horizon: Horizon, descent: Descent, after: Tensor) -> None:
        why = horizon.obstacle(descent, self._passes)
        if why:
            self._horizons.remove(horizon)
            self._notice("horizon_withheld", f"no displacement from step {horizon.step}: {why}")
            return
        horizon.advance(descent.lr)
        if horizon.complete:
            self._horizons.remove(horizon)
            rows = horizon.rows(after, self._observables, self._total, self._names)
            given_up = sorted({row.source for row in rows if isnan(row.value)})
            if given_up:
                self._notice(
                    "flow_given_up",
                    f"displacement from step {horizon.step}: the flow of {', '.join(given_up)} is too stiff to follow, as "
                    "where lr times sharpness is near 1 or above",
                )
            self._write(row for row in rows if not isnan(row.value))

    def _write(self, rows: Iterable[Row]) -> None:
        rows = [row for row in rows if (row.step, row.quantity) not in self._written]
        try:
            self._writer.append(rows)
        except RecordsNotWritten as failure:
            self._notice("not_written", str(failure))

    def _notice(self, kind: str, message: str, warn: bool = True) -> None:
        """Warn once for each kind of event, and log it."""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= EVENTS_PER_KIND:
            with suppress(OSError):  # the disk may be what the event is about
                self._writer.event(self._step, self._time, kind, message)
        if warn and count == 1:
            warnings.warn(f"eom, step {self._step}: {message}", TrackingWarning, stacklevel=2)

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """After the first step no error leaves the tracker: it becomes an event, and open records are given up."""
        began = clock.perf_counter()
        try:
            yield
        except Exception as failure:
            if self._step == 0 and isinstance(failure, EomError) and what != "a step":
                raise
            self._windows, self._horizons = [], []
            self._notice("failed", f"{what} could not be followed ({type(failure).__name__}: {failure})")
        finally:
            self._spent += clock.perf_counter() - began

    def _is_due(self) -> bool:
        with self._guard("the schedule"):
            if isinstance(self._schedule, Budget) and self._schedule.every is None:
                self._settle(self._schedule)
            return bool(self._schedule(self._step))
        return False

    def _settle(self, budget: Budget) -> None:
        """Turn a budget into a number of steps once its second record is complete."""
        self._marks.append((clock.perf_counter(), self._spent))
        last = budget.FIRST + TERMS + 1
        if self._step < last or self._windows:
            return
        (t0, spent0), (t1, spent1) = self._marks[1], self._marks[-1]
        bare = ((t1 - t0) - (spent1 - spent0)) / (len(self._marks) - 2)
        every = budget.settle(spent1 - self._marks[budget.FIRST][1], bare)
        self._writer.update(every=every)
        self._notice(
            "budget",
            f"recording every {every} steps to stay within {budget.share:.0%} of the time",
            warn=False,
        )

    def _flat(self) -> Tensor:
        return self._layout.flatten(self._parameters)

    def _flat_gradient(self) -> Tensor:
        return self._layout.flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters)

    def _resume(self, resume: int | Mapping[str, Any], manifest: dict[str, Any]) -> None:
        """Open the folder again at a step, or at the state of an earlier tracker."""
        state = {"step": resume} if isinstance(resume, int) else dict(resume)
        self._step = int(state["step"])
        table = open_run(self._path).table()
        self._writer = RunWriter.resume(self._path, self._step, manifest)
        self._time = state.get("time", time_at(table, self._step))
        self._recorder.load_state_dict(
            state.get("recorder", {"records": table.loc[table["step"] < self._step, "step"].nunique()})
        )
        self._windows = [Window.from_state_dict(w, self._observables) for w in state.get("windows", [])]
        self._horizons = [Horizon.from_state_dict(h) for h in state.get("horizons", [])]
        opened = {x.step for x in (*self._windows, *self._horizons)}
        kept = table[table["step"].isin(opened) & (table["step"] < self._step)]
        self._written = set(zip(kept["step"], kept["quantity"], strict=True))
        if isinstance(self._schedule, Budget):
            self._schedule.every = state.get("every") or open_run(self._path).manifest.get("every")


def time_at(table: "pd.DataFrame", step: int) -> float:
    """Time at a step of a recorded run: its own record's, or counted on from the last one with its learning rate."""
    before = table[table["step"] <= step]
    if before.empty:
        return 0.0
    last = before.iloc[-1]
    lr = table.loc[(table["step"] == last["step"]) & (table["quantity"] == "lr"), "value"]
    return float(last["time"]) + (step - int(last["step"])) * float(lr.iloc[0] if len(lr) else 0.0)
