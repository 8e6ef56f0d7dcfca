"""A wider precision for code that has a narrower one written into it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CASTS = {Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16, Tensor.float: torch.float32}
NEW = {torch.rand, torch.randn}
# functions that draw by the precision of their arguments, and methods that fill with what they draw
DRAWS = {torch.randn_like, torch.rand_like, torch.normal, torch.bernoulli, Tensor.bernoulli}
FILLS = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.cauchy_,
    Tensor.log_normal_,
    Tensor.geometric_,
    Tensor.random_,
}


class Wide(TorchFunctionMode):
    """Inside, tensors and requests of ``narrow`` precision, or of single, are of ``wide`` precision.

    A loss that rounds its logits by ``x.float()``, or multiplies by a constant in single, is then a function of double
    precision, as differences of it need. New tensors are made in narrow precision first, so that random numbers are
    the same; what is written to in place stays what it is.
    """

    def __init__(self, narrow: torch.dtype, wide: torch.dtype):
        super().__init__()
        self.own, self.narrow, self.wide = narrow, {narrow, torch.float32} - {wide}, wide

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if CASTS.get(func) in self.narrow:
            return args[0].to(self.wide)
        name = getattr(func, "__name__", "")
        if func in FILLS and args[0].dtype == self.wide:
            drawn = torch.empty_strided(args[0].shape, args[0].stride(), dtype=self.own, device=args[0].device)
            with torch.no_grad():
                return args[0].copy_(func(drawn, *map(self._narrower, args[1:]), **kwargs))
        in_place = "out" in kwargs or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if in_place:
            return func(*args, **kwargs)
        if func in DRAWS:
            return self._wider(func(*map(self._narrower, args), **{k: self._narrower(x) for k, x in kwargs.items()}))
        if func in NEW and kwargs.get("dtype") == self.wide:
            kwargs = kwargs | {"dtype": self.own}
        if not any(isinstance(x, Tensor) for x in _flat(args)):  # a new tensor
            return self._wider(func(*args, **kwargs))
        return func(*map(self._wider, args), **{k: self._wider(x) for k, x in kwargs.items()})

    def _narrower(self, x: Any) -> Any:
        return x.to(self.own) if isinstance(x, Tensor) and x.dtype == self.wide else x

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
