"""Generator states, buffers and autocast, kept from before a forward pass, so that it can be evaluated again."""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Replay:
    """What a loss depends on besides parameters and batch: global generators, the model's buffers, mixed precision.

    ``autocast`` holds the dtype of each type of device that operations are cast on.
    """

    cpu: Tensor
    cuda: dict[int, Tensor]
    buffers: dict[str, Tensor]
    autocast: Mapping[str, torch.dtype]
    outside: tuple[Any, Any]  # of Python's random and numpy's global generator

    @classmethod
    def capture(cls, model: nn.Module) -> "Replay":
        """Copy the states as they are now."""
        used = torch.cuda.is_initialized()
        cuda = {i: torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())} if used else {}
        autocast = {d: torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
        buffers = {k: b.detach().clone() for k, b in model.named_buffers()}
        return cls(torch.get_rng_state(), cuda, buffers, autocast, outside_torch())

    @contextmanager
    def states(self, *, outside: bool) -> Iterator[None]:
        """Set generators and autocast back for the time of the block, and then to what they were.

        Python's and numpy's only if asked for: that takes longer than all the rest.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=list(self.cuda)))
            for device in ("cpu", "cuda"):
                dtype = self.autocast.get(device)
                if dtype is not None or torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, dtype, enabled=dtype is not None))
            torch.set_rng_state(self.cpu)
            if outside:
                stack.callback(set_outside_torch, outside_torch())
                set_outside_torch(self.outside)
            for device, state in self.cuda.items():
                torch.cuda.set_rng_state(state, device)
            yield

    def drawn_from(self) -> list[str]:
        """Generators that have moved since the states were captured or set back."""
        return ["torch"] * self.torch_moved() + self.drawn_outside()

    def drawn_outside(self) -> list[str]:
        """Those of them that are not torch's."""
        (python, numpy), (own, numpys) = outside_torch(), self.outside
        moved = numpy[2:] != numpys[2:] or not np.array_equal(numpy[1], numpys[1])
        return ["random"] * (python != own) + ["numpy"] * moved

    def torch_moved(self) -> bool:
        """Whether torch's own generators have."""
        return not torch.equal(self.cpu, torch.get_rng_state()) or any(
            not torch.equal(state, torch.cuda.get_rng_state(device)) for device, state in self.cuda.items()
        )


def outside_torch() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def set_outside_torch(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
