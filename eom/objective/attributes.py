"""Plain attributes of modules, which are neither parameters nor buffers, kept over an evaluation."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OF_TORCH = frozenset(vars(nn.Module()))
Restore = Callable[[], None]


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass sets (a loss, a cache, a counter) or writes to in place is as before after the block.

    Tensors, arrays, lists, dicts, sets and deques that are attributes themselves; not what lies deeper in them.
    """
    before = [(vars(m), dict(vars(m))) for m in model.modules()]
    restores = [_keep(x) for _, then in before for k, x in then.items() if k not in OF_TORCH]
    try:
        yield
    finally:
        for now, then in before:
            if _differ([*now.items()], [*then.items()]):
                now.clear()
                now.update(then)
        for restore in restores:
            if restore is not None:
                restore()


def _keep(x: Any) -> Restore | None:
    """A function that gives ``x`` back its present content, where it can be written to."""
    if isinstance(x, Tensor):
        return _keep_tensor(x) if type(x) is Tensor and x.layout == torch.strided and not x.is_inference() else None
    if isinstance(x, np.ndarray):
        return _keep_array(x)
    if isinstance(x, dict):
        return _keep_entries(x, lambda: [*x.items()], lambda entries: [x.__setitem__(*e) for e in entries])
    if isinstance(x, list | deque):
        return _keep_entries(x, lambda: [*enumerate(x)], lambda entries: x.extend(e for _, e in entries))
    if isinstance(x, set):
        return _keep_entries(x, lambda: [(e, e) for e in x], lambda entries: x.update(e for _, e in entries))
    return None


def _keep_entries(x: Any, entries: Callable[[], list], fill: Callable[[list], Any]) -> Restore:
    before = entries()

    def restore() -> None:
        if _differ(entries(), before):
            x.clear()
            fill(before)

    return restore


def _differ(now: list[tuple], then: list[tuple]) -> bool:
    """Whether these pairs are not of the same keys and the very same values."""
    return len(now) != len(then) or any(a != b or x is not y for (a, x), (b, y) in zip(now, then, strict=True))


def _keep_tensor(x: Tensor) -> Restore:
    same, content, trainable = x.detach(), x.detach().clone(), x.requires_grad  # of the same memory; a copy

    def restore() -> None:
        if x.shape != same.shape or x.data_ptr() != same.data_ptr() or x.stride() != same.stride():
            x.data = same
        if not torch.equal(same, content):  # also where a write does not count, as through .data
            same.copy_(content)
        if x.is_leaf and x.requires_grad != trainable:
            x.requires_grad_(trainable)

    return restore


def _keep_array(x: np.ndarray) -> Restore:
    content = x.copy()

    def restore() -> None:
        if x.shape != content.shape:
            x.resize(content.shape, refcheck=False)
        if x.dtype.hasobject or not np.array_equal(x, content):
            np.copyto(x, content)

    return restore
