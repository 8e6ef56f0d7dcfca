"""Double precision for code that has single precision written into it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Wide(TorchFunctionMode):
    """Inside, what asks for float32 gets float64: ``x.float()``, ``x.to(torch.float32)``, ``softmax(x, dtype=...)``.

    A loss that rounds its logits to single is then a function of double precision, as differences of it need.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        widened = {k: _wider(x) for k, x in (kwargs or {}).items()}
        return func(*map(_wider, args), **widened)


def _wider(x: Any) -> Any:
    return torch.float64 if x is torch.float32 else x
