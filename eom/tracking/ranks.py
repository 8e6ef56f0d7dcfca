"""A training on several processes: the first rank follows it and writes, the others evaluate their part of the data."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from eom.calculus.products import Expansion
from eom.errors import RankError, SettingError
from eom.objective import Objective
from eom.objective.data import Batch, Batches
from eom.objective.loss import LossFunction
from eom.objective.parameters import plain
from eom.tracking.moment import Settings
from eom.tracking.snapshot import Pass, in_modes, kept_generators
from eom.training.descent import unsupported

PATIENCE = timedelta(minutes=10)  # of one rank with the others
Place = tuple[int, int]  # of a forward pass: its step, and which one of that step it was


def ranks_of(model: nn.Module) -> "Ranks | None":
    """The ranks that a model is trained on, if it is wrapped for more than one."""
    if not isinstance(model, DistributedDataParallel) or dist.get_world_size(model.process_group) == 1:
        return None
    members = dist.get_process_group_ranks(model.process_group)
    return Ranks(dist.new_group(members, timeout=PATIENCE, backend="gloo", use_local_synchronization=True))


class Ranks:
    """A process group of the tracker's own, and what is said in it.

    ``listening`` says, on the first rank, that the others wait to be asked: while all are in the hook of a step.
    """

    def __init__(self, group: Any):
        self.group, self.first = group, dist.get_rank(group) == 0
        self.listening, self._lost, self._asked = False, False, 0

    def objective(self, model: nn.Module, loss_fn: LossFunction, batch: Batch, **others: Any) -> Objective:
        """The mean of the losses of all ranks, which is what they descend, whatever the sizes of their batches."""
        batches = Batches(batch, lambda _: 1.0, single=True)
        return Objective(model, loss_fn, batches, per_batch_statistics=True, process_group=self.group, **others)

    def ask(self, what: str, about: Any = None, *tensors: Tensor) -> int:
        """Let the other ranks do something; returns the number of the question.

        Raises:
            RankError: they do not listen, or one was lost.
        """
        if self._lost or not self.listening:
            raise RankError("the other ranks were lost" if self._lost else "the other ranks are asked at steps only")
        self._asked += 1
        self._say((what, about, self._asked), tensors)
        return self._asked

    def _say(self, message: Any, tensors: tuple[Tensor, ...]) -> None:
        source = dist.get_global_rank(self.group, 0)
        try:
            kinds = [(x.shape, x.dtype) for x in tensors]
            dist.broadcast_object_list([message, kinds], source, group=self.group)
            for x in tensors:
                dist.broadcast(x.detach().cpu().contiguous(), source, group=self.group)
        except RuntimeError as error:
            self._lost = True
            raise RankError(f"a rank was lost ({str(error).partition(chr(10))[0][:200]})") from error

    def hear(self) -> tuple[tuple[str, Any, int], list[Tensor]]:
        """What the first rank says."""
        source = dist.get_global_rank(self.group, 0)
        heard: list[Any] = [None, None]
        dist.broadcast_object_list(heard, source, group=self.group)
        tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in heard[1]]
        for x in tensors:
            dist.broadcast(x, source, group=self.group)
        return heard[0], tensors

    def mean(self, value: float | None) -> float:
        """Over all ranks."""
        total = torch.tensor([float("nan") if value is None else value], dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.item() / dist.get_world_size(self.group)

    def over(self, follow: bool, oldest: int) -> None:
        """The hook of a step is over: ``follow`` the next one, and keep what belongs to steps from ``oldest`` on."""
        if self.listening and not self._lost:
            self.ask("over", (follow, oldest))
        self.listening = False

    def end(self) -> None:
        """Nothing is asked any more."""
        if self.listening and not self._lost:
            self.ask("end")
        self._lost = True


@dataclass(frozen=True)
class Led:
    """The loss of one forward pass of all ranks, as a potential on the first one."""

    own: Objective
    ranks: Ranks
    place: Place

    def loss(self, theta: Tensor) -> Tensor:
        self._ask("loss", theta)
        return self.own.loss(theta)

    def gradient(self, theta: Tensor) -> Tensor:
        self._ask("gradient", theta)
        return self.own.gradient(theta)

    def third(self, theta: Tensor, u: Tensor, v: Tensor) -> Tensor:
        self._ask("third", theta, u, v)
        return self.own.third(theta, u, v)

    def expansion(self, theta: Tensor) -> Expansion:
        number = self._ask("expansion", theta)
        at = self.own.expansion(theta)

        def hvp(v: Tensor) -> Tensor:
            self.ranks.ask("product", number, v)
            return at.hvp(v)

        return at._replace(hvp=hvp)

    def _ask(self, what: str, *tensors: Tensor) -> int:
        return self.ranks.ask(what, (self.place, self.own.product), *tensors)


class Helper:
    """The tracker of every rank but the first: it remembers its batches, and evaluates them when it is asked."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        ranks: Ranks,
        settings: Settings,
        opened: Callable[[], Any],
    ):
        self._called, self._model, self._loss_fn = model, plain(model), loss_fn
        self._optimizer, self._ranks, self._settings, self._opened = optimizer, ranks, settings, opened
        self._first: Objective | None = None
        self._passes: dict[Place, Pass] = {}
        self._products: dict[int, Callable[[Tensor], Tensor]] = {}
        self._losses: list[Tensor] = []
        self._step = self._seen = 0
        self._follow, self._over = True, False
        self._handle: Any = None

    @property
    def run(self) -> Any:
        return self._opened()

    def __enter__(self) -> "Helper":
        self._handle = self._optimizer.register_step_post_hook(self._after_step)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handle.remove()
        if kind is None:
            self._serve()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def loss(self, batch: Batch) -> Tensor:
        if self._over or not torch.is_grad_enabled():
            return self._loss_fn(self._called, batch)
        self.observe(batch)
        value = self._loss_fn(self._called, batch)
        self._losses.append(value.detach())
        return value

    def observe(self, batch: Batch) -> None:
        if self._over:
            return
        if self._first is None:
            with kept_generators():
                self._first = self._tested(batch)
        if self._follow:
            self._passes[self._step, self._seen] = Pass.take(batch, self._model)
        self._seen += 1

    def _tested(self, batch: Batch) -> Objective:
        objective = self._ranks.objective(self._model, self._loss_fn, batch, product=self._settings.product)
        if self._settings.order is not None and not unsupported(self._optimizer):
            objective.check(max(self._settings.order, 1))
        return objective

    def _after_step(self, *_: object) -> None:
        self._serve()
        self._step, self._seen, self._losses = self._step + 1, 0, []

    def _serve(self) -> None:
        """Do what is asked until the step is over."""
        try:
            with kept_generators():
                while not self._over and self._answer():
                    pass
        except Exception:  # whatever it is, the training goes on; the first rank shall not wait for this one
            self._over = True
            with suppress(Exception):
                dist.destroy_process_group(self._ranks.group)
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


def check_alone(**given: Any) -> None:
    """What a training on several ranks cannot be given yet.

    Raises:
        SettingError: one of them is given.
    """
    if named := [name for name, value in given.items() if value is not None]:
        raise SettingError(f"{' and '.join(named)} cannot be used in a training on several ranks: leave it out")
