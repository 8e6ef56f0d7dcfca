"""Reads a moment of the training off the model, its gradients and the optimizer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.objective.parameters import Layout, trainable
from eom.tracking.moment import Moment
from eom.tracking.snapshot import Pass
from eom.training.descent import Descent, read


class Start(NamedTuple):
    """What is read off where a step begins; see ``Moment``."""

    kept: Tensor | None = None
    values: Tensor | None = None


class Reader:
    """The trainable parameters of a model, in the order of the flat vector."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, layout: Layout):
        self.parameters = list(trainable(model).values())
        self._optimizer, self.layout = optimizer, layout
        self._descent: tuple[object, Descent] | None = None  # the latest, and the settings that it was read from

    @property
    def lr(self) -> float:
        """The largest learning rate: the time that a step takes."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    @property
    def skipped(self) -> bool:
        """Within a step: whether a gradient scaler makes a fused optimizer leave it out."""
        return bool(getattr(self._optimizer, "found_inf", 0))

    def theta(self) -> Tensor:
        """[n], a copy."""
        return self.layout.flatten(self.parameters)

    def checksum(self) -> Tensor:
        """Wrapping sums of the bits of each parameter: equal as long as nothing writes to them."""
        return torch.stack([bits(p).sum() for p in self.parameters])

    def moment(
        self,
        step: int,
        time: float,
        passes: list[Pass],
        losses: list[Tensor],
        start: Start,
        *,
        written: bool,
    ) -> Moment:
        """The step just taken."""
        for p in passes:
            p.note_randomness()
        loss = float(torch.stack(losses).double().mean()) if losses else None
        descent = self._read()
        return Moment(step, time, descent, passes, self.parameters, self.layout, loss, *start, written)

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
