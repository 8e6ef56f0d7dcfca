"""The loss of one batch as a function of the flat parameters."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eom.calculus.wide import Wide
from eom.errors import LossNotDifferentiableError, SettingError
from eom.objective.data import Batch, in_dtype
from eom.objective.explain import check_scalar, explaining
from eom.objective.parameters import Layout, trainable
from eom.objective.replay import Replay

LossFunction = Callable[[nn.Module, Batch], Tensor]
T = TypeVar("T")


class Around(nn.Module):
    """A module around the model, so that one functional call lends it other parameters and buffers.

    ``places`` are all names of parameters, those of a tied one too, each with its position in the layout; ``frozen``
    are parameters that are constants.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        at = {id(p): i for i, p in enumerate(trainable(model).values())}
        named = list(self.named_parameters(remove_duplicate=False))
        self.places = [(name, at[id(p)]) for name, p in named if id(p) in at]
        self.frozen = [(name, p) for name, p in named if id(p) not in at]

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
        held = {name: parts[i] for name, i in self.around.places} | self.constants(parts[0].dtype)
        with self.replay.states(), explaining(), self._precision(parts[0].dtype):
            return functional_call(self.around, held, (work,), tie_weights=False)

    def _precision(self, dtype: torch.dtype) -> AbstractContextManager:
        """In double, what a model of single precision writes down as single is double too."""
        return Wide() if dtype == torch.float64 != self.layout.dtype else nullcontext()

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
        fixed = {name: p.detach() for name, p in self.around.frozen}
        fixed |= {f"model.{k}": b.clone() for k, b in self.replay.buffers.items()}
        if dtype != self.layout.dtype:
            fixed = {k: x.to(dtype) if x.is_floating_point() else x for k, x in fixed.items()}
        return fixed

    def batch_in(self, dtype: torch.dtype) -> Batch:
        """The batch in this precision; as it is where it is the model's own."""
        return self.batch if dtype == self.layout.dtype else in_dtype(self.batch, dtype)
