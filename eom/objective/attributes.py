"""Plain attributes of modules, which are neither parameters nor buffers, kept over an evaluation."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OF_TORCH = frozenset(vars(nn.Module()))


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass sets (a loss, a cache, a counter) or writes to in place is as before after the block.

    Tensors, arrays, lists, dicts, sets and deques that are attributes themselves; not what lies deeper in them.
    """
    before = [(vars(m), dict(vars(m))) for m in model.modules()]
    put_back = [
        KEEPERS[type(x)](x) for _, then in before for k, x in then.items() if k not in OF_TORCH and type(x) in KEEPERS
    ]
    try:
        yield
    finally:
        for now, then in before:
            if len(now) != len(then) or any(now.get(k) is not v for k, v in then.items()):
                now.clear()
                now.update(then)
        for restore in put_back:
            restore()


def _keep_tensor(x: Tensor) -> Callable[[], None]:
    if x.is_inference() or x.layout != torch.strided:
        return lambda: None
    version, content = x._version, x.detach().clone()

    def restore() -> None:
        if x._version != version:
            x.detach().copy_(content)

    return restore


def _keep_array(x: np.ndarray) -> Callable[[], None]:
    content = x.copy()
    return lambda: None if np.array_equal(x, content) else np.copyto(x, content)


def _keep_entries(x: list | deque | set) -> Callable[[], None]:
    content = list(x)

    def restore() -> None:
        if len(x) != len(content) or any(a is not b for a, b in zip(x, content, strict=True)):
            x.clear()
            (x.update if isinstance(x, set) else x.extend)(content)

    return restore


def _keep_dict(x: dict) -> Callable[[], None]:
    content = dict(x)

    def restore() -> None:
        if len(x) != len(content) or any(x.get(k) is not v for k, v in content.items()):
            x.clear()
            x.update(content)

    return restore


KEEPERS: dict[type, Callable[[Any], Callable[[], None]]] = {
    Tensor: _keep_tensor,
    np.ndarray: _keep_array,
    list: _keep_entries,
    deque: _keep_entries,
    set: _keep_entries,
    dict: _keep_dict,
}
