"""A wider precision for code that has a narrower one written into it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CASTS = {Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16, Tensor.float: torch.float32}
LIKE = {torch.randn_like, torch.rand_like}


class Wide(TorchFunctionMode):
    """Inside, tensors and requests of ``narrow`` precision, or of single, are of ``wide`` precision.

    A loss that rounds its logits by ``x.float()``, or multiplies by a constant in single, is then a function of double
    precision, as differences of it need. New tensors are made in narrow precision first, so that random numbers are
    the same; what is written to in place stays what it is.
    """

    def __init__(self, narrow: torch.dtype, wide: torch.dtype):
        super().__init__()
        self.narrow, self.wide = {narrow, torch.float32} - {wide}, wide

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if CASTS.get(func) in self.narrow:
            return args[0].to(self.wide)
        name = getattr(func, "__name__", "")
        in_place = "out" in kwargs or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if in_place:
            return func(*args, **kwargs)
        if func in LIKE:
            return self._wider(func(args[0].float(), *args[1:], **kwargs))
        if not any(isinstance(x, Tensor) for x in _flat(args)):  # a new tensor
            return self._wider(func(*args, **kwargs))
        return func(*map(self._wider, args), **{k: self._wider(x) for k, x in kwargs.items()})

    def _wider(self, x: Any) -> Any:
        if isinstance(x, torch.dtype):
            return self.wide if x in self.narrow else x
        if isinstance(x, Tensor):
            return x.to(self.wide) if x.dtype in self.narrow else x
        if type(x) in (list, tuple):
            return type(x)(map(self._wider, x))
        return x


def _flat(args: Any) -> list[Any]:
    """Arguments, and those in lists and tuples among them."""
    return [x for a in args for x in (a if type(a) in (list, tuple) else [a])]
