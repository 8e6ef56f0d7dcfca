"""Generator states and buffers kept from before a forward pass, so that it can be evaluated again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Replay:
    """What a loss depends on besides parameters and batch: random generators and the model's buffers."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def capture(cls, model: nn.Module) -> "Replay":
        """Copy the states as they are now."""
        used = torch.cuda.is_initialized()
        cuda = {i: torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())} if used else {}
        return cls(torch.get_rng_state(), cuda, {k: b.detach().clone() for k, b in model.named_buffers()})

    @contextmanager
    def generators(self) -> Iterator[None]:
        """Set the generators back for the time of the block, and then to what they were."""
        with torch.random.fork_rng(devices=list(self.cuda)):
            torch.set_rng_state(self.cpu)
            for device, state in self.cuda.items():
                torch.cuda.set_rng_state(state, device)
            yield

    def consumed_randomness(self) -> bool:
        """Whether a generator has moved since the states were captured."""
        return not torch.equal(self.cpu, torch.get_rng_state()) or any(
            not torch.equal(state, torch.cuda.get_rng_state(device)) for device, state in self.cuda.items()
        )
