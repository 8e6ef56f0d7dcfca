"""The tracker of every rank but the first: it remembers its batches, and evaluates them when it is asked."""

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.errors import TrackingWarning, warn_user
from eom.objective import Objective
from eom.objective.data import Batch, Batches
from eom.objective.loss import LossFunction
from eom.objective.parameters import plain
from eom.records import Run, open_run
from eom.tracking.moment import Settings
from eom.tracking.ranks import Place, Ranks
from eom.tracking.snapshot import Pass, in_modes, kept_generators
from eom.training.descent import unsupported


class Helper:
    """What ``eom.track`` gives to these ranks, with the methods of a ``Tracker``."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        ranks: Ranks,
        settings: Settings,
        path: str | Path,
    ):
        self._called, self._model, self._loss_fn = model, plain(model), loss_fn
        self._optimizer, self._ranks, self._settings, self._path = optimizer, ranks, settings, path
        self._first: Objective | None = None
        self._passes: dict[Place, Pass] = {}
        self._products: dict[int, Callable[[Tensor], Tensor]] = {}
        self._losses: list[Tensor] = []
        self._step = self._seen = 0
        self._follow, self._begun, self._over = True, False, False
        self._handle: Any = None

    @property
    def run(self) -> Run:
        """The run that the first rank writes."""
        return open_run(self._path)

    def __enter__(self) -> "Helper":
        self._handle = self._optimizer.register_step_post_hook(self._after_step)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._handle.remove()
        if kind is None:
            self._serve()
        elif not self._over:
            self._ranks.explain(error)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the first rank knows."""
        return {}

    def loss(self, batch: Batch) -> Tensor:
        """The training loss of ``batch`` on this rank; remembers the batch."""
        if self._over or not torch.is_grad_enabled():
            return self._loss_fn(self._called, batch)
        self.observe(batch)
        value = self._loss_fn(self._called, batch)
        self._guard(lambda: self._losses.append(value.detach()))
        return value

    def observe(self, batch: Batch) -> None:
        """Remember a batch whose loss is computed elsewhere."""
        if not self._over:
            self._guard(lambda: self._remember(batch))
            self._seen += 1

    def _remember(self, batch: Batch) -> None:
        with kept_generators():
            if self._first is None:
                self._first = self._tested(batch)
            if self._follow:
                self._passes[self._step, self._seen] = Pass.take(batch, self._model)

    def _tested(self, batch: Batch) -> Objective:
        objective = self._ranks.objective(self._model, self._loss_fn, batch, product=self._settings.product)
        if self._settings.order is not None and not unsupported(self._optimizer):
            objective.check(max(self._settings.order, 1))
        return objective

    def _after_step(self, *_: object) -> None:
        self._begun = True
        self._serve()
        self._step, self._seen, self._losses = self._step + 1, 0, []

    def _guard(self, work: Callable[[], object]) -> None:
        """Do it; after the first step no error leaves it, and the first rank does not wait for this one."""
        try:
            work()
            return
        except Exception as failure:  # whatever it is, the training goes on
            if not self._begun:
                raise
            why = f"{type(failure).__name__}: {failure}"
        if not self._over:
            self._leave(why)  # here, as the failure holds the group no more

    def _leave(self, why: str) -> None:
        """Close the connections, which takes the last reference to their group, and say so."""
        with suppress(Exception):
            dist.destroy_process_group(self._ranks.group)
        self._over, self._first, self._passes, self._products = True, None, {}, {}
        del self._ranks
        gc.collect()
        with suppress(TrackingWarning):  # the user's filter makes errors of warnings
            warn_user(f"eom, step {self._step}: this rank takes no part any more ({why})", TrackingWarning)

    def _serve(self) -> None:
        """Do what is asked until the step is over."""

        def work() -> None:
            with kept_generators():
                while not self._over and self._answer():
                    pass

        self._guard(work)
        self._products = {}

    def _answer(self) -> bool:
        """Do one thing; whether there is more."""
        (what, about, number), tensors = self._ranks.hear()
        match what:
            case "end":
                self._over = True
            case "over":
                self._follow, oldest = about
                self._passes = {place: p for place, p in self._passes.items() if place[0] >= oldest}
                return False
            case "losses":
                self._ranks.mean(torch.stack(self._losses).double().mean().item() if self._losses else None)
            case "product":
                self._products[about](*tensors)
            case _:
                place, product = about
                p, first = self._passes[place], self._first
                assert first is not None  # as there is a pass
                replay = p.replayed(self._settings.precision)
                objective = first.replaced(product=product, data=Batches(p.batch, single=True), replay=replay)
                with in_modes(self._model, p.modes):
                    found = getattr(objective, what)(*(x.to(first.theta().device) for x in tensors))
                if what == "expansion":
                    self._products[number] = found.hvp
        return True
