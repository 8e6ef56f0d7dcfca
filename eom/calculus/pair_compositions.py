"""What torch fuses, written out for pairs: functions of plain ones that ``pair_rules`` knows.

Each has the arguments of the torch function of its name.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from eom.calculus import compositions, divided, norms
from eom.calculus.discrete import Pair, Step, Two, elementwise
from eom.calculus.pair_recurrences import RECURRENT
from eom.errors import DiscreteError

ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def opened(func: Callable) -> Callable | None:
    """A function of torch's Python code that does not ask whether another is to take its place; None for others."""
    python = (
        isinstance(func, FunctionType) and func.__module__.startswith("torch.") and "<locals>" not in func.__qualname__
    )
    return _opened(func) if python else None


@cache
def _opened(func: FunctionType) -> Callable:
    around = dict(func.__globals__) | {name: lambda *args: False for name in ASKS}
    inside = FunctionType(func.__code__, around, func.__name__, func.__defaults__, func.__closure__)
    inside.__kwdefaults__ = func.__kwdefaults__
    return inside


# Powers and quotients


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


def logaddexp(a: Any, b: Any) -> Tensor:
    return b + softplus(a - b)


def hypot(a: Any, b: Any) -> Tensor:
    return torch.sqrt(a * a + b * b)


# Pieces


def absolute(x: Tensor) -> Tensor:
    if x.is_complex():
        return hypot(x.real, x.imag)
    return elementwise(x, torch.abs, divided.absolute)


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
    return torch.relu(x) - weight * torch.relu(-x)


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
    return torch.relu(x) + alpha * torch.expm1(-torch.relu(-x))


def celu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return torch.relu(x) + alpha * torch.expm1(-torch.relu(-x) / alpha)


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


# Sums of exponentials


def softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    return torch.exp(log_softmax(x, dim))


def log_softmax(x: Any, dim: Any = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """By a step of its own: x - logsumexp(x) would lose digits of large x."""
    two: Two = x.two

    def pull(ws: list[Tensor]) -> list[Tensor]:
        return [ws[0] - divided.logsumexp(two.u, two.v, dim) * ws[0].sum(dim, keepdim=True)]

    went = Two(torch.log_softmax(two.u, dim), torch.log_softmax(two.v, dim))
    x.tape.steps.append(Step([two], [went], pull))
    return Pair.of(went, x.tape)


def logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    total = elementwise(
        x, lambda y: torch.logsumexp(y, dim, keepdim=True), lambda u, v, a, b: divided.logsumexp(u, v, dim)
    )
    return total if keepdim else total.squeeze(dim)


# Norms and normalisations


def norm(x: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    if p not in ("fro", 2, 2.0, None):
        raise DiscreteError(f"the energy takes a norm of order {p}: write it out, with abs and powers")
    return torch.sqrt((x * x).sum(dim, keepdim=keepdim) if dim is not None else (x * x).sum())


def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return norm(x, ord, dim, keepdim)


def linalg_norm(x: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if ord not in (None, "fro") and not isinstance(dim, int):  # of matrices, by their singular values
        raise DiscreteError(f"the energy takes a norm of order {ord} of matrices: write it out, or take vector_norm")
    return norm(x, ord, dim, keepdim)


def std(x: Tensor, *args: Any, **settings: Any) -> Tensor:
    return torch.sqrt(torch.var(x, *args, **settings))


def batch_norm(
    x: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if training:
        raise DiscreteError("the model normalises by batch statistics: call model.eval()")
    shape = (-1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(running_var + eps).view(shape)
    y = (x - running_mean.view(shape)) * scale
    return norms.affine(y, *(None if p is None else p.view(shape) for p in (weight, bias)))


def group_norm(x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    grouped = x.reshape(len(x), num_groups, -1)
    y = norms.layer_norm(grouped, grouped.shape[-1:], eps=eps).reshape(x.shape)
    shape = (-1, *[1] * (x.ndim - 2))
    return norms.affine(y, *(None if p is None else p.view(shape) for p in (weight, bias)))


def rms_norm(x: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    square = (x * x).mean(dims, keepdim=True)
    return norms.affine(x * torch.rsqrt(square + (torch.finfo(x.dtype).eps if eps is None else eps)), weight, None)


# Sums with products, attention


def addmm(bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * bias + alpha * (a @ b)


def lerp(a: Any, b: Any, weight: Any) -> Tensor:
    return a + weight * (b - a)


def addcmul(x: Any, a: Any, b: Any, *, value: float = 1) -> Tensor:
    return x + value * (a * b)


def addcdiv(x: Any, a: Any, b: Any, *, value: float = 1) -> Tensor:
    return x + value * div(a, b)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if dropout_p:
        raise DiscreteError("the model drops out attention: call model.eval()")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape, dtype=scores.dtype).masked_fill(~attn_mask, float("-inf"))
    return softmax(scores if attn_mask is None else scores + attn_mask, -1) @ value


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if training and p:
        raise DiscreteError("the model draws random numbers (dropout): call model.eval()")
    return x


def derivative(*args: Any, **settings: Any) -> Tensor:
    raise DiscreteError("the energy takes a derivative inside: write it out, by torch functions")


COMPOSED: dict[str, Callable] = {
    "grad": derivative, "backward": derivative,
    "div": div, "divide": div, "true_divide": div, "truediv": div, "rdiv": rdiv, "rtruediv": rdiv, "pow": power,
    "float_power": power, "rpow": lambda a, b: power(b, a), "abs": absolute, "absolute": absolute,
    "std": std, "addmm": addmm, "baddbmm": addmm, "addmv": addmm,
    "linalg_norm": linalg_norm, "linalg_vector_norm": vector_norm, "frobenius_norm": norm, "log_sigmoid": logsigmoid,
    "layer_norm": norms.layer_norm, "instance_norm": norms.instance_norm, "feature_dropout": dropout,
    "alpha_dropout": dropout, "dropout1d": dropout, "dropout2d": dropout, "dropout3d": dropout,
    "clip": clamp, "cdist": compositions.cdist, "pdist": compositions.pdist,
} | {
    f.__name__: f
    for f in (
        tan, logaddexp, hypot, maximum, minimum, clamp, leaky_relu, prelu, hardtanh, relu6, hardsigmoid, hardswish,
        softshrink, elu, celu, selu, softplus, logsigmoid, silu, mish, gelu, softsign, tanhshrink, glu, softmax,
        log_softmax, logsumexp, norm, batch_norm, group_norm, rms_norm, lerp, addcmul, addcdiv,
        scaled_dot_product_attention, dropout,
    )
} | RECURRENT  # fmt: skip
