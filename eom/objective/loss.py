"""The loss of one batch as a function of the flat parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eom.errors import LossNotDifferentiableError, SettingError
from eom.objective.data import Batch, in_dtype
from eom.objective.explain import check_scalar, explaining
from eom.objective.parameters import Layout
from eom.objective.replay import Replay

LossFunction = Callable[[nn.Module, Batch], Tensor]
T = TypeVar("T")


class Around(nn.Module):
    """A module around the model, so that one functional call lends it other parameters and buffers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


@dataclass(frozen=True)
class BatchLoss:
    """theta [n] -> loss_fn(model, batch) [], from the same generator states and buffers at every evaluation."""

    around: Around
    loss_fn: LossFunction
    layout: Layout
    replay: Replay
    batch: Batch

    def parts(self, theta: Tensor) -> list[Tensor]:
        """The parameters, as views of ``theta``."""
        if theta.shape != (self.layout.n,):
            raise SettingError(f"theta has shape {list(theta.shape)}, expected [{self.layout.n}]")
        return list(self.layout.unflatten(theta).values())

    def within(self, parts: list[Tensor], work: Callable[[], T]) -> T:
        """Run ``work`` while the model holds ``parts``: checkpointed code reads them in backward passes too."""
        held = {f"model.{k}": x for k, x in zip(self.layout.names, parts, strict=True)}
        with self.replay.states(), explaining():
            return functional_call(self.around, self.constants(parts[0].dtype) | held, (work,))

    def value(self, parts: list[Tensor]) -> Tensor:
        """[] the loss."""
        value = self.loss_fn(self.around.model, self.batch_in(parts[0].dtype))
        check_scalar(value)
        if torch.is_grad_enabled() and parts[0].requires_grad and not value.requires_grad:
            raise LossNotDifferentiableError(
                "the loss does not depend on any trainable parameter of this model through differentiable operations. "
                "A loss function that uses another model than the one it is given, .detach(), .item() or "
                "torch.no_grad() is the usual cause."
            )
        return value.reshape(())

    def __call__(self, theta: Tensor) -> Tensor:
        parts = self.parts(theta)
        return self.within(parts, lambda: self.value(parts))

    def constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Frozen parameters and copies of the buffers, in this precision."""
        fixed = {k: p for k, p in self.around.model.named_parameters() if not p.requires_grad}
        fixed |= {k: b.clone() for k, b in self.replay.buffers.items()}
        if dtype != self.layout.dtype:
            fixed = {k: x.to(dtype) if x.is_floating_point() else x for k, x in fixed.items()}
        return {f"model.{k}": x for k, x in fixed.items()}

    def batch_in(self, dtype: torch.dtype) -> Batch:
        """The batch in this precision; as it is where it is the model's own."""
        return self.batch if dtype == self.layout.dtype else in_dtype(self.batch, dtype)
