"""A wider precision for code that has a narrower one written into it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CASTS = {Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16, Tensor.float: torch.float32}


class Wide(TorchFunctionMode):
    """Inside, tensors and requests of ``narrow`` precision, or of single, are of ``wide`` precision.

    A loss that rounds its logits by ``x.float()``, or multiplies by a constant in single, is then a function of double
    precision, as differences of it need.
    """

    def __init__(self, narrow: torch.dtype, wide: torch.dtype):
        super().__init__()
        self.narrow, self.wide = {narrow, torch.float32} - {wide}, wide

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if CASTS.get(func) in self.narrow:
            return args[0].to(self.wide)
        return func(*map(self._wider, args), **{k: self._wider(x) for k, x in (kwargs or {}).items()})

    def _wider(self, x: Any) -> Any:
        if isinstance(x, torch.dtype):
            return self.wide if x in self.narrow else x
        if isinstance(x, Tensor):
            return x.to(self.wide) if x.dtype in self.narrow else x
        if type(x) in (list, tuple):
            return type(x)(map(self._wider, x))
        return x
