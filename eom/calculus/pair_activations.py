"""Activations for pairs, written out in functions that ``pair_rules`` knows: pieces of lines, and smooth ones.

Each has the arguments of the torch function of its name.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eom.calculus import divided
from eom.calculus.discrete import elementwise
from eom.calculus.pair_powers import absolute, whole_power
from eom.errors import DiscreteError

# Pieces


def maximum(a: Any, b: Any) -> Tensor:
    return torch.where(a >= b, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    return torch.where(a <= b, a, b)


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    x = x if min is None else maximum(x, min)
    return x if max is None else minimum(x, max)


def leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * x + (1 - negative_slope) * torch.relu(x)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    weight = weight.view(-1, *[1] * (x.ndim - 2)) if weight.numel() > 1 else weight
    return weight * x + (1 - weight) * torch.relu(x)


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return clamp(x, min_val, max_val)


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    return clamp(x, 0.0, 6.0)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    return clamp(x / 6 + 0.5, 0.0, 1.0)


def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * hardsigmoid(x)


def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    return torch.relu(x - lambd) - torch.relu(-x - lambd)


def elu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return alpha * smooth_elu(x) + (1 - alpha) * torch.relu(x)


def celu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    if alpha <= 0:
        raise DiscreteError(f"alpha of CELU is {alpha}, expected a positive number")
    return alpha * smooth_elu(x / alpha)


def smooth_elu(x: Tensor) -> Tensor:
    """Of alpha = 1, with which it has no kink."""
    return elementwise(x, lambda y: torch.where(y > 0, y, torch.expm1(y.where(~(y > 0), 0.0))), divided.elu)


def selu(x: Tensor, inplace: bool = False) -> Tensor:
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


# Smooth activations


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta, without torch's jump at the threshold of 20 or more."""
    soft = elementwise(beta * x, lambda y: torch.logaddexp(y, y.new_zeros(())), divided.softplus) / beta
    return soft if threshold >= 20 else torch.where(beta * x > threshold, x, soft)


def logsigmoid(x: Tensor) -> Tensor:
    return -softplus(-x)


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x)


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.tanh(softplus(x))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * whole_power(x, 3))))
    return x * (0.5 + 0.5 * torch.erf(x / math.sqrt(2)))


def softsign(x: Tensor) -> Tensor:
    return x * torch.reciprocal(1 + absolute(x))


def tanhshrink(x: Tensor) -> Tensor:
    return x - torch.tanh(x)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    one, other = x.chunk(2, dim)
    return one * torch.sigmoid(other)


ACTIVATIONS: dict[str, Callable] = {"log_sigmoid": logsigmoid, "clip": clamp} | {
    f.__name__: f
    for f in (
        maximum, minimum, clamp, leaky_relu, prelu, hardtanh, relu6, hardsigmoid, hardswish, softshrink, elu, celu,
        selu, softplus, logsigmoid, silu, mish, gelu, softsign, tanhshrink, glu,
    )
}  # fmt: skip
