"""Reads a moment of the training off the model, its gradients and the optimizer."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.objective.parameters import Layout, trainable
from eom.tracking.moment import Moment
from eom.tracking.snapshot import Pass
from eom.training.descent import read


class Reader:
    """The trainable parameters of a model, in the order of the flat vector."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, layout: Layout):
        self.parameters = list(trainable(model).values())
        self._optimizer, self._layout = optimizer, layout

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
        return self._layout.flatten(self.parameters)

    def moment(
        self,
        step: int,
        time: float,
        theta: Tensor | None,
        last: Tensor | None,
        passes: list[Pass],
        losses: list[Tensor],
        *,
        alone: bool,
    ) -> Moment:
        """The step just taken.

        Args:
            theta: [n] before it, if that was kept. last: [n] after the step before, to be taken for it otherwise; where
                neither is known the step is solved backwards.
            alone: nothing will be compared with theta after the step.
        """
        descent = read(self._optimizer, self.parameters)
        after = theta if alone and theta is not None else self.theta()
        gradient = self._layout.flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        assumed = theta is None and last is not None
        if theta is None:
            theta = descent.before(after, gradient) if last is None else last
        for p in passes:
            p.note_randomness()
        untouched = all(p.grad is None or p.grad._version == 0 for p in self.parameters)
        loss = float(torch.stack(losses).double().mean()) if losses else None
        return Moment(step, time, descent, passes, theta, after, gradient, untouched, loss, assumed)
