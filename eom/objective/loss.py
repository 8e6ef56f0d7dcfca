"""The loss of one batch as a function of the flat parameters."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eom.calculus.exact import as_written
from eom.calculus.wide import Wide
from eom.errors import LossNotDifferentiableError
from eom.objective.attributes import attributes_kept
from eom.objective.data import Batch, in_dtype
from eom.objective.explain import check_scalar, explaining
from eom.objective.parameters import Layout, trainable
from eom.objective.replay import Replay

LENDING = RLock()  # a functional call puts parameters into the modules, which two threads must not do at once
LossFunction = Callable[[nn.Module, Batch], Tensor]
T = TypeVar("T")


class Around(nn.Module):
    """A module around the model, so that one functional call lends it other parameters and buffers.

    ``places`` are all names of parameters, those of a tied one too, each with its position in the layout; ``frozen``
    are parameters that are constants. Where a forward pass writes to parameters it is lent copies.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        at = {id(p): i for i, p in enumerate(trainable(model).values())}
        modules = self.named_modules()  # each once, also where it is used twice
        named = [(f"{name}.{k}", p) for name, m in modules for k, p in m._parameters.items() if p is not None]
        self.places = [(name, at[id(p)]) for name, p in named if id(p) in at]
        self.frozen = [(name, p) for name, p in named if id(p) not in at]
        # not known before the first forward pass:
        self.writes: bool | None = None  # whether it writes to parameters
        self.draws: list[str] | None = None  # the generators outside torch that it draws from

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
        return list(self.layout.unflatten(theta if self.around.writes is False else theta.clone()).values())

    def within(self, parts: list[Tensor], work: Callable[[], T]) -> T:
        """Run ``work`` while the model holds ``parts``: checkpointed code reads them in backward passes too."""
        held = {name: parts[i] for name, i in self.around.places} | self.constants(parts[0].dtype)
        around, first = self.around, self.around.writes is None
        own = [name for name, _ in (*around.places, *around.frozen)] if first else []
        before = [held[name].detach().clone() for name in own]
        with (
            LENDING,
            as_written(),
            self.replay.states(outside=around.draws != []),
            explaining(),
            attributes_kept(around.model),
            self._precision(parts[0].dtype),
        ):
            found = functional_call(around, held, (work,), tie_weights=False)
            if first:
                around.draws = self.replay.drawn_outside()
        if first:
            around.writes = not all(torch.equal(held[name], x) for name, x in zip(own, before, strict=True))
        return found

    def _precision(self, dtype: torch.dtype) -> AbstractContextManager:
        """In a wider precision than the model's, what is written down as the model's or as single is wider too."""
        own = self.layout.dtype
        return Wide(own, dtype) if torch.finfo(dtype).eps < torch.finfo(own).eps else nullcontext()

    def value(self, parts: list[Tensor]) -> Tensor:
        """[] the loss."""
        value = self.loss_fn(self.around.model, self.batch_in(parts[0].dtype))
        check_scalar(value)
        if torch.is_grad_enabled() and parts[0].requires_grad and not value.requires_grad:
            raise LossNotDifferentiableError(
                "the loss does not depend on any trainable parameter of this model through differentiable operations. "
                "A loss function that uses another model than the one it is given, .detach(), .item(), torch.no_grad() "
                "in it, torch.inference_mode() around it, or a checkpoint without use_reentrant=False is the usual "
                "cause."
            )
        return value.reshape(())

    def __call__(self, theta: Tensor) -> Tensor:
        parts = self.parts(theta)
        with torch.enable_grad():  # a loss may take derivatives itself
            return self.within(parts, lambda: self.value(parts))

    def constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Frozen parameters and copies of the buffers, in this precision."""
        lend = Tensor.detach if self.around.writes is False else Tensor.clone
        fixed = {name: lend(p.detach()) for name, p in self.around.frozen}
        fixed |= {f"model.{k}": b.clone() for k, b in self.replay.buffers.items()}
        if dtype != self.layout.dtype:
            fixed = {k: x.to(dtype) if x.is_floating_point() else x for k, x in fixed.items()}
        return fixed

    def batch_in(self, dtype: torch.dtype) -> Batch:
        """The batch in this precision; as it is where it is the model's own."""
        return self.batch if dtype == self.layout.dtype else in_dtype(self.batch, dtype)
