"""The batches of one step, as they were before their forward passes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eom.objective.data import Batch, digest, same, tensors
from eom.objective.replay import Replay, outside_torch, set_outside_torch

PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Opaque:
    """Stands for something in a batch that cannot be compared; equal to nothing."""

    __hash__ = None  # type: ignore[assignment] - unhashable

    def __eq__(self, other: object) -> bool:
        return False


@dataclass
class Pass:
    """One forward pass of a step: its batch, the states before it, and whether it drew random numbers.

    ``contents`` are sums of the batch's tensors, and everything else in it; ``versions`` torch's counters of writes.
    """

    batch: Batch
    replay: Replay
    modes: tuple[bool, ...]
    contents: list[Any] = field(default_factory=list)
    versions: tuple[int, ...] = ()
    random: bool | None = None  # not known yet
    place: tuple[int, int] = (0, 0)  # its step, and which forward pass of that step it was

    @classmethod
    def take(cls, batch: Batch, model: nn.Module) -> "Pass":
        """Call before the forward pass."""
        return cls(batch, Replay.capture(model), modes(model), list(contents(batch)), versions(batch))

    def note_randomness(self) -> None:
        """Call after the forward pass: did it draw random numbers?"""
        if self.random is None:
            self.random = bool(self.replay.drawn_from())

    def replayed(self, precision: torch.dtype | None) -> Replay:
        """The states to evaluate it from; outside of autocast, where a precision was asked for."""
        return replace(self.replay, autocast={}) if precision else self.replay

    @property
    def changed(self) -> bool:
        """Whether a tensor of the batch was written to since."""
        now = [x for x in contents(self.batch) if not isinstance(x, Opaque)]
        return now != [x for x in self.contents if not isinstance(x, Opaque)] or versions(self.batch) != self.versions

    @property
    def once(self) -> bool:
        """Whether no later step can be known to be the same: random numbers, or things that cannot be compared."""
        return bool(self.random) or any(isinstance(x, Opaque) for x in self.contents)


def contents(batch: Batch) -> Iterator[Any]:
    """For each tensor its sum as text (two NaN are alike); everything else as it is, with the keys of mappings."""
    if isinstance(batch, Mapping):
        yield from (x for key, value in batch.items() for x in (str(key), *contents(value)))
    elif isinstance(batch, list | tuple):
        yield from (x for value in batch for x in contents(value))
    elif isinstance(batch, Tensor) and batch.layout == torch.strided and not batch.is_quantized:
        yield str(batch.detach().sum().item())
    elif isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":
        yield (batch.shape, batch.dtype.str, batch.tobytes())
    else:
        yield batch if isinstance(batch, PLAIN) else Opaque()


def versions(batch: Batch) -> tuple[int, ...]:
    """Torch's counters of in-place writes."""
    return tuple(0 if x.is_inference() else x._version for x in tensors(batch))


def modes(model: nn.Module) -> tuple[bool, ...]:
    """Train or eval, of every module."""
    return tuple(m.training for m in model.modules())


@contextmanager
def in_modes(model: nn.Module, wanted: Sequence[bool]) -> Iterator[None]:
    """The model in train and eval modes of an earlier moment, for the time of the block."""
    modules = list(model.modules())
    before = [m.training for m in modules]
    try:
        for module, mode in zip(modules, wanted, strict=True):
            module.training = mode
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode


def generators_of(data: Any) -> list[torch.Generator]:
    """Those of a loader's own."""
    return [data.generator] if isinstance(data, DataLoader) and data.generator is not None else []


@contextmanager
def kept_generators(own: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Whatever the block draws, global generators and those of the user's loaders are afterwards as before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states, outside = [g.get_state() for g in own], outside_torch()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        set_outside_torch(outside)
        for g, state in zip(own, states, strict=True):
            g.set_state(state)


def accumulates(parameters: list[nn.Parameter]) -> bool:
    """Whether gradients of an earlier backward pass are waiting: not zeroed, and finite.

    Non-finite ones belong to a step that a gradient scaler skipped.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    return any(bool(g.any()) for g in gradients) and all(bool(torch.isfinite(g).all()) for g in gradients)


def repeats(passes: Sequence[Pass], earlier: Sequence[Pass]) -> bool:
    """Whether a step saw the batches of an earlier one again, in the same modes, and neither drew random numbers."""
    return len(passes) == len(earlier) and all(
        not p.random
        and not q.random
        and p.modes == q.modes
        and p.contents == q.contents
        and same(p.batch, q.batch)
        and not q.changed  # else what it held cannot be compared any more
        for p, q in zip(passes, earlier, strict=True)
    )


def digests(passes: Sequence[Pass]) -> list[str]:
    """SHA-256 of each batch, and what else is in it."""
    return [digest(tensors(p.batch)) + repr(p.contents) for p in passes]
