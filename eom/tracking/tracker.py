"""The tracker: follows a running training from its optimizer's step hooks, and writes what it finds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.errors import SettingError
from eom.objective import Objective
from eom.objective.data import Batch, Batches
from eom.objective.explain import check_callables, check_scalar
from eom.objective.loss import LossFunction
from eom.objective.parameters import Groups, layout_of, make_groups, plain
from eom.objective.replay import Replay
from eom.records import Run, RunWriter, open_run
from eom.tracking.description import UNITS, describe_objective, describe_start, now, own_units
from eom.tracking.door import check_settings, whole_data
from eom.tracking.follower import Follower
from eom.tracking.horizons import Horizons
from eom.tracking.log import Log
from eom.tracking.moment import Settings
from eom.tracking.observables import Observables, UserObservable, check_names
from eom.tracking.quantities import Quantities, Quantity
from eom.tracking.ranks import Ranks
from eom.tracking.reader import Forward, Reader
from eom.tracking.recorder import Recorder
from eom.tracking.resume import Resume, changed_settings, check_resume, reopen
from eom.tracking.schedule import Budget, Every, make_schedule, plain_every
from eom.tracking.snapshot import Pass, generators_of, kept_generators
from eom.tracking.trial import check_batch, check_first, moves_with_buffers
from eom.tracking.watch import Watch
from eom.training.descent import check_owner, unsupported

STRAYS = 3  # forward passes with new weights, and no step, after which something is said


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
        resume: Resume | None,
        ranks: Ranks | None = None,
        quantities: Sequence[Quantity] = (),
    ):
        check_settings(settings)
        check_callables(model, loss_fn)
        self._model, self._called, self._optimizer, self._loss_fn = plain(model), model, optimizer, loss_fn
        self._settings, self._schedule, self._groups = settings, make_schedule(every), groups
        self._layout = layout_of(self._model)
        check_owner(optimizer, self._model)
        check_names(own, tuple(UNITS))
        members = make_groups(self._layout, groups)
        self._generators = generators_of(data)
        with kept_generators(self._generators):
            batches = whole_data(data)
        self._log = Log()
        self._observables = Observables(self._layout, members, own, self._log.event)
        others = Quantities(quantities, (*UNITS, *own), self._log.event)
        self._recorder = Recorder(settings, self._observables, self._log.event, ranks=ranks, quantities=others)
        self._ranks = ranks
        self._seen = 0  # forward passes of the step under way
        predicts = settings.order is not None or bool(others)
        self._reader = Reader(self._model, optimizer, self._layout, self._observables, predicts=predicts)
        self._watch = Watch(self._model, optimizer)
        changed = self._watch.parameters
        horizons = Horizons(self._recorder, self._observables, batches, self._log, changed)
        self._follower = Follower(self._recorder, self._observables, horizons, self._log, changed)
        self._closing = False  # no step comes any more
        self._tested = self._over = False  # the loss has been tested; the parameters changed, or the training ended
        self._first: tuple[Pass, Replay, Tensor] | None = None  # the first loss, the states before it and after
        self._handles: list[Any] = []
        self._path = Path(run).absolute()
        self._resumed = resume is not None
        plainly = settings.plain() | {"every": plain_every(every)}
        manifest = describe_start(optimizer, plainly, own_units(own) | others.units, groups)
        if resume is None:
            self._due = self._is_due()
            self._log.writer = RunWriter.create(self._path, manifest)
        else:
            check_resume(resume, self._observables.identity, self._layout.n)
            self._log.writer, state = reopen(self._path, resume, manifest, self._layout.n)
            with self._log.closed_on_error():
                self._load_state_dict(state)
                self._due = self._is_due()
                if new := changed_settings(self.run.manifest, plainly):
                    self._log.event("settings_changed", f"resumed with other settings than before: {new}")

    @property
    def run(self) -> Run:
        """The run as it stands on disk."""
        return open_run(self._path)

    def __enter__(self) -> "Tracker":
        if self._over:
            raise SettingError("this tracker has followed a training to its end: call eom.track again for the next one")
        if self._handles:
            raise SettingError("this tracker is open already: leave the block around this one out")
        after = self._optimizer.register_step_post_hook(self._after_step)
        # before other hooks, which may change gradients, weights or learning rate
        self._optimizer._optimizer_step_post_hooks.move_to_end(after.id, last=False)  # type: ignore[attr-defined] - an OrderedDict
        self._handles = [self._optimizer.register_step_pre_hook(self._before_step), after]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        refused = kind is not None and not self._log.begun and not self._resumed
        self._log.begun = self._closing = True  # nothing is raised from here
        for handle in self._handles:
            handle.remove()
        if kind is not None:
            if self._ranks is not None:
                self._ranks.explain(error)
            why = f"the training ended with {kind.__name__} at step {self._log.step}" + (
                f": {error}" if str(error) else ""
            )
            self._log.event("interrupted", why, warn=False)
        with self._asking(kind is None), kept_generators(self._generators):
            self._follower.end()
        finished = {"finished": now()} if kind is None else {}
        self._log.describe(steps=self._log.step, records=self._recorder.records, **finished)
        self._end()
        with self._log.guard("closing the run"):
            self._log.close(discard=refused)

    def loss(self, batch: Batch) -> Tensor:
        """The training loss of ``batch``; remembers the batch, and the states before the forward pass.

        Call it in place of the loss function, before ``backward`` and ``optimizer.step``; several times before one
        step where gradients are accumulated (the loss of the step is then taken to be their mean).

        Raises:
            EomError: before the first step, a loss that cannot be followed.
        """
        if self._over or not torch.is_grad_enabled():
            return self._loss_fn(self._called, batch)
        forward = self._observe(batch, used=False)
        value = self._loss_fn(self._called, batch)
        with self._log.guard("the loss"):
            if forward is not None and forward.remembered is not None:
                forward.remembered.note_randomness()
            check_scalar(value)
            if not self._log.begun:
                check_first(value)
                if forward is not None and forward.remembered is not None and self._first is None:
                    self._first = forward.remembered, Replay.capture(self._model), value.detach()
            if forward is not None:
                forward.take(value)
        return value

    def observe(self, batch: Batch) -> None:
        """Remember a batch whose loss is computed elsewhere; call it before the forward pass."""
        if not self._over:
            self._observe(batch, used=True)

    def _observe(self, batch: Batch, *, used: bool) -> Forward | None:
        if not self._handles:
            raise SettingError("the tracker is not open, expected: with eom.track(...) as tracker: ...")
        if not self._tested:
            self._test(batch)
        with self._log.guard("remembering a batch"):
            forward = self._reader.observe(batch, due=self._due, followed=self._follows, used=used)
            if forward.remembered is not None:
                forward.remembered.place = self._log.step, self._seen
            self._seen += 1
            if self._reader.strays == STRAYS:
                self._log.event(
                    "no_steps",
                    "the weights change, but the optimizer that is tracked takes no step: nothing is recorded. Track "
                    "the one that does as a new run.",
                )
            return forward
        return None

    def state_dict(self) -> dict[str, Any]:
        """What ``resume`` needs to continue without a seam; save it beside the model's and the optimizer's.

        It holds tensors, numbers, text, lists and dicts only, so ``torch.load`` reads it with ``weights_only=True``.
        """
        with kept_generators(self._generators):
            open_records = self._follower.state_dict()
        return open_records | {
            "left": self._reader.left,
            "step": self._log.step,
            "time": self._log.time,
            "observables": self._observables.identity,
            "parameters": self._layout.n,
            "recorder": self._recorder.state_dict(),
            "every": self._schedule.every if isinstance(self._schedule, Budget) else None,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self._log.step, self._log.time = state["step"], state["time"]
        self._recorder.load_state_dict(state["recorder"])
        self._follower.load_state_dict(state)
        self._reader.left = state["left"]
        if isinstance(self._schedule, Budget):
            self._schedule.every, self._schedule.start = state["every"], state["step"]

    def _test(self, batch: Batch) -> None:
        """Test the loss on the first batch, and describe the run; errors are raised, or end the predictions."""

        def withhold() -> None:
            self._tested = True
            why = "the first batch came after the first step, and its test failed"
            self._follower.withhold(why)
            self._recorder.withheld = why

        with self._log.guard("the test of the loss", withhold), kept_generators(self._generators):
            check_batch(batch)
            asked: dict[str, Any] = {"groups": self._groups, "product": self._settings.product}
            if self._ranks is None:
                objective = Objective(self._model, self._loss_fn, Batches(batch, single=True), **asked)
            else:
                objective = self._ranks.objective(self._model, self._loss_fn, batch, **asked)
            self._recorder.first = objective
            self._observables.check(objective.theta())
            if self._recorder.quantities:
                self._recorder.quantities.check(objective)
            entries: dict[str, Any] = {} if self._resumed else describe_objective(objective, batch)
            if reason := unsupported(self._optimizer):
                entries["predictions"] = {"withheld": reason}
                self._follower.withhold(reason)
            elif self._settings.order is not None:
                check = objective.check(max(self._settings.order, 1))
                entries["self_test"] = [asdict(probe) for probe in check.probes]
                routes = {"product": check.product, "second": check.second, "third": check.third}
                entries["routes"] = routes | {"dtype": check.dtype}
                self._recorder.adopt(check)
            self._tested = True
            self._log.describe(**entries)

    def _before_step(self, *_: object) -> None:
        self._log.begun = True
        with self._log.guard("a step"):
            self._reader.before_step(due=self._due)
            if self._first is not None:
                self._look_at_buffers(*self._first)
                self._first = None

    def _after_step(self, *_: object) -> None:
        with self._asking():
            self._step_taken()
        self._seen = 0

    @contextmanager
    def _asking(self, listening: bool = True) -> Iterator[None]:
        """The other ranks, where there are any, wait in the same hook, and do what they are asked."""
        if self._ranks is None:
            yield
            return
        self._ranks.listening = listening
        try:
            yield
        finally:
            with self._log.guard("the other ranks"):
                if self._over or self._closing:
                    self._ranks.end()
                else:
                    self._ranks.over(self._follows, self._follower.oldest)

    def _step_taken(self) -> None:
        lr = 0.0
        with self._log.guard("a step", self._follower.drop), torch.no_grad():
            if self._reader.skipped:
                return
            lr = self._reader.lr
            self._look_at_losses()
            if self._follows:
                self._follow()
        with self._log.guard("a step", self._reader.forget):
            self._reader.after_step(followed=bool(self._follower))
        self._log.step += 1
        self._log.time += lr
        self._due = self._is_due()

    @property
    def _follows(self) -> bool:
        return self._due or bool(self._follower)

    def _follow(self) -> None:
        if why := self._watch.parameters() if self._due else None:
            self._end()
            self._follower.drop()
            self._log.event("parameters_changed", f"{why}; nothing is recorded from here on: track it as a new run")
            return
        self._look_at_optimizer()
        evaluates = self._settings.order is not None or bool(self._recorder.quantities)
        with kept_generators(self._generators) if evaluates else nullcontext():
            moment = self._reader.moment(self._log.step, self._log.time)
            if self._ranks is not None and self._due and moment.loss is not None:
                self._ranks.ask("losses")
                moment.loss = self._ranks.mean(moment.loss)
            self._follower.step(moment, self._due)

    def _look_at_losses(self) -> None:
        if not self._recorder.withheld and not all(
            isfinite(f.loss.item()) for f in self._reader.forwards if f.loss is not None
        ):
            self._recorder.withheld = f"the loss was not finite at step {self._log.step}"
            self._log.event("loss_not_finite", f"{self._recorder.withheld}; predictions are withheld from here on")

    def _look_at_buffers(self, before: Pass, after: Replay, value: Tensor) -> None:
        """Of the first loss; now, as its backward pass is over, and reads nothing in the model any more."""
        if before.random or unsupported(self._optimizer):
            return
        with kept_generators(self._generators):
            self._follower.moving = moves_with_buffers(self._model, self._loss_fn, before, after, value)
        if self._follower.moving:
            self._log.event(
                "moving_buffers",
                "the loss depends on buffers that every forward pass changes, so that each step descends another "
                "function: rates are measured by look-aheads, displacements withheld",
            )

    def _look_at_optimizer(self) -> None:
        if why := self._watch.optimizer():
            if not self._watch.owned:
                self._recorder.withheld = self._recorder.withheld or why
            self._log.event("optimizer_changed", why)

    def _is_due(self) -> bool:
        if self._over:
            return False
        with self._log.guard("the schedule"):
            budget = self._schedule
            if isinstance(budget, Budget) and budget.every is None:
                every = budget.settle(self._log.step, self._log.seconds, self._follower.busy)
                if every is not None:
                    self._log.describe(every=every)
                    why = f"recording every {every} steps to stay within {budget.share:.0%} of the time"
                    self._log.event("budget", why, warn=False)
            return bool(self._schedule(self._log.step))
        return False

    def _end(self) -> None:
        self._over, self._due = True, False
        self._reader.forget()
