"""Reads the step under way off the model, its gradients and the optimizer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.objective.data import Batch
from eom.objective.parameters import Layout, trainable
from eom.tracking.moment import Moment
from eom.tracking.observables import Observables
from eom.tracking.snapshot import Pass, accumulates
from eom.training.descent import Descent, read, unsupported

WAITING = 256  # forward passes held that led to no backward pass yet


@dataclass(eq=False)
class Forward:
    """A forward pass of the step under way, and whether its loss went into a backward pass."""

    remembered: Pass | None
    used: bool
    loss: Tensor | None = None

    def take(self, loss: Tensor) -> None:
        """The loss that it led to."""
        self.loss = loss.detach()
        if loss.requires_grad:
            loss.register_hook(self._use)

    def _use(self, _: Tensor) -> None:
        self.used = True


class Reader:
    """What is known of the step under way, until it is taken and becomes a ``Moment``.

    ``left`` is a checksum of the parameters after the step before, where that one was followed; ``strays`` counts the
    times that the weights changed between forward passes without a step.

    Args:
        predicts: whether batches are to be remembered.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, layout: Layout, observables: Observables, *, predicts: bool
    ):
        self.parameters = list(trainable(model).values())
        self._model, self._optimizer, self._layout = model, optimizer, layout
        self._observables, self._predicts = observables, predicts
        self.left: Tensor | None = None
        self.strays = 0
        self._descent: tuple[object, Descent] | None = None  # the latest, and the settings that it was read from
        self.forget()

    def forget(self) -> None:
        """No step is under way."""
        self._forwards: list[Forward] = []
        self._writes = 0  # torch's count of writes to the parameters, at the latest forward pass
        self._kept: Tensor | None = None
        self._values: Tensor | None = None
        self._written = False

    @property
    def lr(self) -> float:
        """The largest learning rate: the time that a step takes."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    @property
    def skipped(self) -> bool:
        """Within a step: whether a gradient scaler makes a fused optimizer leave it out."""
        return bool(getattr(self._optimizer, "found_inf", 0))

    @property
    def forwards(self) -> list[Forward]:
        """The forward passes behind the gradient; all of them, where none is known to be."""
        return [f for f in self._forwards if f.used] or [f for f in self._forwards if f.loss is not None]

    def observe(self, batch: Batch, *, due: bool, followed: bool, used: bool) -> Forward:
        """A forward pass of ``batch`` is about to be taken; ``used``, if its loss will not be seen."""
        writes = sum(p._version for p in self.parameters)
        if self._forwards and writes != self._writes:  # those before led to no step
            self.strays += 1
            self.forget()
        elif any(f.used for f in self._forwards) and not accumulates(self.parameters):  # their gradients were zeroed
            self.forget()
        waiting = [f for f in self._forwards if not f.used]
        if len(waiting) >= WAITING:
            self._forwards.remove(waiting[0])
        self._writes = writes
        self.begin(due=due)
        remembered = Pass.take(batch, self._model) if followed and self._predicts else None
        self._forwards.append(Forward(remembered, used))
        return self._forwards[-1]

    def begin(self, *, due: bool) -> None:
        """Where a record is due, read the parameters off once: before the first forward pass, or before the step."""
        if due and self._values is None:
            self._values = self._observables.at(self.parameters)
            if self._predicts or unsupported(self._optimizer) or len(self._optimizer.param_groups) > 1:
                self._kept = self._layout.flatten(self.parameters)

    def before_step(self, *, due: bool) -> None:
        self.strays = 0
        self.begin(due=due)
        self._written = self.left is not None and not torch.equal(self.left, self.checksum())

    def moment(self, step: int, time: float) -> Moment:
        """The step just taken."""
        forwards = self.forwards
        passes = [f.remembered for f in forwards if f.remembered is not None]
        losses = [f.loss for f in forwards if f.loss is not None]
        for p in passes:
            p.note_randomness()
        loss = float(torch.stack(losses).double().mean()) if losses else None
        read_off = (self.parameters, self._layout, loss, self._kept, self._values, self._written)
        return Moment(step, time, self._read(), passes, *read_off)

    def after_step(self, *, followed: bool) -> None:
        self.forget()
        self.left = None  # should the next line fail
        self.left = self.checksum() if followed else None

    def checksum(self) -> Tensor:
        """Wrapping sums of the bits of each parameter: equal as long as nothing writes other values to them.

        What only exchanges entries, or flips the signs of an even number of them, is not seen.
        """
        return torch.stack([bits(p).sum() for p in self.parameters])

    def _read(self) -> Descent:
        """The step that the optimizer takes; settings that did not change are not read again."""
        groups = self._optimizer.param_groups
        settings = [[float(v) if isinstance(v, Tensor) else v for k, v in g.items() if k != "params"] for g in groups]
        held = [id(p) for g in groups for p in g["params"]]
        now = (settings, held, [p.grad is None for p in self.parameters])
        if self._descent is None or self._descent[0] != now:
            self._descent = now, read(self._optimizer, self.parameters)
        return self._descent[1]


def bits(p: Tensor) -> Tensor:
    """The entries as whole numbers, as wide as fit."""
    flat = p.detach().reshape(-1)
    size = flat.numel() * flat.element_size()
    width = next(kind for kind in (torch.int64, torch.int32, torch.int16, torch.int8) if size % kind.itemsize == 0)
    return flat.view(width)
