"""A training on several processes: the first rank follows it and writes, the others evaluate their part of the data."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eom.calculus.products import Expansion
from eom.errors import RankError, SettingError
from eom.objective import Objective
from eom.objective.data import Batch, Batches
from eom.objective.loss import LossFunction
from eom.objective.shards import lost

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
            over = "the training has ended, and with it the steps at which the other ranks answer"
            raise RankError("the other ranks were lost" if self._lost else over)
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
            raise lost(error, self.group) from error

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

    def explain(self, error: BaseException | None) -> None:
        """Say in an error of torch.distributed, which names no rank, which one is gone."""
        if isinstance(error, RuntimeError) and not isinstance(error, RankError) and "gloo" in str(error):
            with suppress(Exception):  # the store that knows may be gone as well
                error.add_note(f"eom: {lost(error, self.group)}")

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


def check_alone(**given: Any) -> None:
    """What a training on several ranks cannot be given yet.

    Raises:
        SettingError: one of them is given.
    """
    if named := [name for name, value in given.items() if value is not None]:
        raise SettingError(f"{' and '.join(named)} cannot be used in a training on several ranks: leave it out")
