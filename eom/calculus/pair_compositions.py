"""What torch fuses, written out for pairs: functions of plain ones that ``pair_rules`` knows.

Each has the arguments of the torch function of its name.
"""

import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from eom.calculus import compositions, divided, norms
from eom.calculus.discrete import Pair, Step, Two, elementwise
from eom.calculus.pair_activations import ACTIVATIONS
from eom.calculus.pair_powers import POWERS, div
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


# Sums of exponentials


def logaddexp(a: Any, b: Any) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return logsumexp(torch.stack([a.expand(shape), b.expand(shape)], -1), -1)


def softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    return torch.exp(log_softmax(x, dim))


def log_softmax(x: Any, dim: Any = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """x - logsumexp(x), of values that lose no digits of large x."""
    two, total = x.two, logsumexp(x, dim, keepdim=True).two  # type: ignore[attr-defined] - a pair
    went = Two(torch.log_softmax(two.u, dim), torch.log_softmax(two.v, dim))
    x.tape.steps.append(Step([two, total], [went], lambda ws: [ws[0], -ws[0].sum(dim, keepdim=True)]))
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
    square = (x * x.conj()).real if x.is_complex() else x * x
    return torch.sqrt(square.sum(dim, keepdim=keepdim) if dim is not None else square.sum())


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


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """c (d - c / 2) with d the difference and c the same within -delta and delta."""
    d = input - target
    c = torch.clamp(d, -delta, delta)
    found = c * (d - c / 2) if weight is None else weight * (c * (d - c / 2))
    return found if reduction == "none" else getattr(torch, reduction)(found)


def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:  # fmt: skip
    if size_average is not None or reduce is not None:
        raise DiscreteError("size_average and reduce are of old: give reduction=")
    if beta:
        return huber_loss(input, target, reduction, beta) / beta
    found = (input - target).abs()
    return found if reduction == "none" else getattr(torch, reduction)(found)


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
    "std": std, "addmm": addmm, "baddbmm": addmm, "addmv": addmm,
    "linalg_norm": linalg_norm, "linalg_vector_norm": vector_norm, "frobenius_norm": norm,
    "layer_norm": norms.layer_norm, "instance_norm": norms.instance_norm, "feature_dropout": dropout,
    "alpha_dropout": dropout, "dropout1d": dropout, "dropout2d": dropout, "dropout3d": dropout,
    "cdist": compositions.cdist, "pdist": compositions.pdist,
} | {
    f.__name__: f
    for f in (
        logaddexp, softmax, log_softmax, logsumexp, norm, batch_norm, group_norm, rms_norm, lerp, huber_loss,
        smooth_l1_loss, addcmul, addcdiv, scaled_dot_product_attention, dropout,
    )
} | POWERS | ACTIVATIONS | RECURRENT  # fmt: skip
