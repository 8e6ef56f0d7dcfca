"""The batches of one step, as they were before their forward passes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from eom.objective.data import Batch, digest, same, tensors
from eom.objective.replay import Replay


@dataclass
class Pass:
    """One forward pass of a step: its batch, the states before it, and whether it drew random numbers."""

    batch: Batch
    replay: Replay
    versions: tuple[int, ...]
    random: bool = False

    def note_randomness(self) -> None:
        """Call after the forward pass: did it draw random numbers?"""
        self.random = self.replay.consumed_randomness()

    @property
    def changed(self) -> bool:
        """Whether a tensor of the batch was written to since."""
        return versions(self.batch) != self.versions


def versions(batch: Batch) -> tuple[int, ...]:
    """Torch's counters of in-place writes."""
    return tuple(0 if x.is_inference() else x._version for x in tensors(batch))


def accumulates(parameters: list[nn.Parameter]) -> bool:
    """Whether gradients of an earlier backward pass are waiting: not zeroed, and finite.

    Non-finite ones belong to a step that a gradient scaler skipped.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    return any(bool(g.any()) for g in gradients) and all(bool(torch.isfinite(g).all()) for g in gradients)


def repeats(passes: Sequence[Pass], earlier: Sequence[Pass]) -> bool:
    """Whether a step saw the batches of an earlier one again, and neither drew random numbers."""
    return len(passes) == len(earlier) and all(
        not p.random and not q.random and not q.changed and same(p.batch, q.batch)
        for p, q in zip(passes, earlier, strict=True)
    )


def digests(passes: Sequence[Pass]) -> tuple[str, ...]:
    """SHA-256 of each batch."""
    return tuple(digest(tensors(p.batch)) for p in passes)
