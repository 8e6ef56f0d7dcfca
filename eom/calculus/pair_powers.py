"""Powers and quotients for pairs, written out in functions that ``pair_rules`` knows.

Each has the arguments of the torch function of its name.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eom.calculus import divided
from eom.calculus.discrete import Pair, elementwise
from eom.errors import DiscreteError


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode:
        raise DiscreteError("the energy rounds what depends on its argument: leave rounding_mode out")
    return a * (torch.reciprocal(floats(b, a)) if isinstance(b, Tensor) else 1 / b if b else math.inf)


def floats(x: Tensor, other: Any) -> Tensor:
    """A constant in the floats of its result with ``other``: whole numbers would have those of single precision."""
    return x if isinstance(x, Pair) else x.to(torch.result_type(x, other))


def rdiv(a: Any, b: Any) -> Tensor:
    return b * torch.reciprocal(a)


def power(a: Any, n: Any) -> Tensor:
    learned = isinstance(n, Tensor) and n.requires_grad
    if type(n) is Tensor and n.ndim == 0 and not learned:
        n = n.item()
    if isinstance(n, int | float):
        if float(n).is_integer():
            return torch.reciprocal(whole_power(a, -int(n))) if n < 0 else whole_power(a, int(n))
        if abs(n) == 0.5:
            return torch.sqrt(a) if n > 0 else torch.rsqrt(a)
        if 0 < n < math.inf and not a.is_complex():
            return elementwise(a, lambda x: x**n, partial(divided.power, n=n))
        if -math.inf < n < 0:
            return torch.reciprocal(power(a, -n))
    if isinstance(a, Tensor) and type(n) is Tensor and not (learned or n.is_complex()):
        return torch.stack([chosen_power(a, n == k, k.item()) for k in n.unique()]).sum(0)
    log: Any = torch.log(floats(a, n)) if isinstance(a, Tensor) else math.log(a)
    return torch.exp(n * log)


def chosen_power(a: Tensor, mask: Tensor, n: float) -> Tensor:
    """a^n where ``mask``, and 0 elsewhere."""
    return torch.where(mask, power(torch.where(mask, a, 1.0), n), 0.0)


def whole_power(a: Tensor, n: int) -> Tensor:
    """By squaring, each product of two being exact."""
    if n == 0:
        return a * 0 + 1
    half = whole_power(a, n // 2) if n > 1 else None
    square = None if half is None else half * half
    return a if square is None else square * a if n % 2 else square


def tan(x: Tensor) -> Tensor:
    return torch.sin(x) * torch.reciprocal(torch.cos(x))


def hypot(a: Any, b: Any) -> Tensor:
    return torch.sqrt(a * a + b * b)


def absolute(x: Tensor) -> Tensor:
    if x.is_complex():
        return hypot(x.real, x.imag)
    return elementwise(x, torch.abs, divided.absolute)


POWERS: dict[str, Callable] = {
    "div": div, "divide": div, "true_divide": div, "truediv": div, "rdiv": rdiv, "rtruediv": rdiv, "pow": power,
    "float_power": power, "rpow": lambda a, b: power(b, a), "abs": absolute, "absolute": absolute, "hypot": hypot,
    "tan": tan,
}  # fmt: skip
