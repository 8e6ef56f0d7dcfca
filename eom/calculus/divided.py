"""Divided differences s[u, v] = (s(u) - s(v)) / (u - v) of elementwise functions, stable as u -> v.

Each takes u, v and the values a = s(u), b = s(v), all [...]. At u = v they are s'(u). They can be differentiated in all
arguments, the derivatives being stable too.

Source: Higham, Functions of Matrices (2008), sec. 10.6 for exp; the others by addition theorems.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import zeta
from torch import Tensor

NEAR = 0.5  # of the argument of a series
NODES = 0.3  # |u - v| up to which the mean of s' is taken by Gauss's rule
X, W = (x.tolist() for x in np.polynomial.legendre.leggauss(6))

SERIES: dict[Callable[[Tensor], Tensor], list[float]] = {  # of f(d) / d in powers of d^2
    torch.tanh: [(-1) ** (n + 1) * 2 * (4**n - 1) * float(zeta(2 * n)) / math.pi ** (2 * n) for n in range(1, 21)],
    torch.sinh: [1 / math.factorial(2 * k + 1) for k in range(10)],
    torch.sin: [(-1) ** k / math.factorial(2 * k + 1) for k in range(10)],
    torch.atanh: [1 / (2 * k + 1) for k in range(28)],
    torch.atan: [(-1) ** k / (2 * k + 1) for k in range(28)],
}
SLOPES: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    torch.tanh: lambda d: 1 - d.tanh().square(),
    torch.sinh: torch.cosh,
    torch.sin: torch.cos,
    torch.atanh: lambda d: 1 / (1 - d * d),
    torch.atan: lambda d: 1 / (1 + d * d),
}


class Cardinal(torch.autograd.Function):
    """c(d) = f(d) / d of an odd function; c' = (f' - c) / d, or the derivative of the series."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(d)
        ctx.f = f
        return switched(d, SERIES[f], lambda far: f(far) / far)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:  # type: ignore[override] - any there
        (d,), f = ctx.saved_tensors, ctx.f
        terms = [2 * k * c for k, c in enumerate(SERIES[f])][1:]  # of c'(d) / d
        slope = switched(d, terms, lambda far: (SLOPES[f](far) - f(far) / far) / (far * far))
        return weight * d * slope, None


def cardinal(f: Callable[[Tensor], Tensor], d: Tensor) -> Tensor:
    """f(d) / d for one of the odd functions in ``SERIES``."""
    return Cardinal.apply(d, f)  # type: ignore[no-any-return] - of torch's


def switched(d: Tensor, terms: Sequence[float], beyond: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of terms[k] d^(2 k) for |d| < NEAR, as many as count there, and ``beyond`` elsewhere."""
    low, high = torch.aminmax(d.detach()) if d.numel() else (d.sum(), d.sum())
    largest = max(-float(low), float(high))
    every = largest < NEAR
    near = None if every else d.abs() < NEAR
    small = d if near is None else torch.where(near, d, 0.0)
    smallest = torch.finfo(d.dtype).eps / 16 * abs(terms[0])
    many = sum(abs(c) * min(largest, NEAR) ** (2 * k) > smallest for k, c in enumerate(terms)) or 1
    square, total = small * small, torch.full_like(d, terms[many - 1])
    for c in reversed(d.new_tensor(terms[: many - 1]).unbind()):
        total = torch.addcmul(c, total, square)
    return total if near is None else torch.where(near, total, beyond(torch.where(near, 1.0, d)))


def tanh(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return cardinal(torch.tanh, u - v) * (1 - a * b)


def sigmoid(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return cardinal(torch.tanh, (u - v) / 2) * (a + b - 2 * a * b) / 2


def sin(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return ((u + v) / 2).cos() * cardinal(torch.sin, (u - v) / 2)


def cos(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return -((u + v) / 2).sin() * cardinal(torch.sin, (u - v) / 2)


def exp(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """e^max (1 - e^-gap) / gap, gap = |u - v|."""
    return torch.maximum(u, v).exp() * falling(apart(u, v))


def apart(u: Tensor, v: Tensor) -> Tensor:
    """|u - v|, 0 for minus infinity twice, as where attention is masked."""
    return torch.where(u == v, 0.0, u - v).abs()


def falling(gap: Tensor) -> Tensor:
    """(1 - e^-gap) / gap for gap >= 0."""
    near = gap < 1
    small, far = torch.where(near, gap, 0.0), torch.where(near, 1.0, gap)
    return torch.where(near, (-small / 2).exp() * cardinal(torch.sinh, small / 2), -torch.expm1(-far) / far)


def logsumexp(u: Tensor, v: Tensor, dim: Any) -> Tensor:
    """[..., k, ...] exp[u_i, v_i] log[A, B] with A = sum e^u_i, B = sum e^v_i, all over the larger one of A and B.

    Its products with u_i - v_i sum up to log A - log B. Of both logarithms the largest entry is known without rounding,
    so that neither large entries nor distant ones lose digits.
    """
    tops = [x.detach().amax(dim, keepdim=True) for x in (u, v)]
    rests = [torch.logsumexp(x - top, dim, keepdim=True) for x, top in zip((u, v), tops, strict=True)]
    rise = (tops[0] - tops[1]) + (rests[0] - rests[1])
    up = rise >= 0
    top, rest, gap = torch.where(up, *tops), torch.where(up, *rests), torch.where(up, rise, -rise)
    return (torch.maximum(u, v) - top - rest).exp() * falling(apart(u, v)) / falling(gap)


def log(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """2 artanh(d) / (d (u + v)) with d = (u - v) / (u + v), or the quotient beyond a ratio of 3."""
    near = (u - v).abs() < NEAR * (u + v)
    d, whole = torch.where(near, u - v, 0.0), torch.where(near, u + v, 2.0)
    return torch.where(near, 2 / whole * cardinal(torch.atanh, d / whole), (a - b) / torch.where(near, 1.0, u - v))


def power(u: Tensor, v: Tensor, a: Tensor, b: Tensor, n: float) -> Tensor:
    """Of x^n, n > 0: that of e^(n log x), the unit of x being the larger one, or the quotient beyond a ratio of 3."""
    near, same = (u - v).abs() < NEAR * (u + v), (u == v) & (n > 1)
    unit = torch.where(near, torch.maximum(u, v), 1.0).detach()
    one, other = (torch.where(near, x, 1.0) / unit for x in (u, v))
    log_one, log_other = one.log(), other.log()
    slope = n * exp(n * log_one, n * log_other, one, other) * log(one, other, log_one, log_other)
    return torch.where(near, slope * unit ** (n - 1), (a - b) / torch.where(near | same, 1.0, u - v))


def log1p(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return log(1 + u, 1 + v, a, b)


def softplus(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The log of (1 + e^u) over (1 + e^v): a product of two divided differences, or the quotient beyond 1."""
    near = (u - v).abs() < 1
    u_near, v_near = torch.where(near, u, 0.0), torch.where(near, v, 0.0)
    shift = torch.maximum(u_near, v_near).clamp(min=0)  # e^-shift + e^(x - shift) is between 1/e and 2
    e_u, e_v = ((x - shift).exp() for x in (u_near, v_near))
    one, other = (-shift).exp() + e_u, (-shift).exp() + e_v
    product = log(one, other, one.log(), other.log()) * exp(u_near - shift, v_near - shift, e_u, e_v)
    return torch.where(near, product, (a - b) / torch.where(near, 1.0, u - v))


def absolute(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(u + v) / (|u| + |v|), 0 at 0 as torch's."""
    return (u + v) / torch.where(a + b > 0, a + b, 1.0)


def relu(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1, 0, or the share of the way that is positive; 0 is taken for negative, as by torch's derivative there."""
    high, low = torch.maximum(u, v), torch.minimum(u, v)
    across = (high > 0) & (low <= 0)
    share = torch.where(across, high, 0.0) / torch.where(across, high - low, 1.0)
    return torch.where(across, share, (low > 0).to(u.dtype))


def elu(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """That of exp below 0, 1 above; across, 1 + (l - expm1 l) / gap, or the quotient where the lower one l is far."""
    high, low = torch.maximum(u, v), torch.minimum(u, v)
    below, across = high <= 0, (high > 0) & (low < 0)
    u_below, v_below = torch.where(below, u, 0.0), torch.where(below, v, 0.0)
    gap, near = torch.where(across, high - low, 1.0), low > -NEAR
    small, far = torch.where(across & near, low, 0.0), torch.where(across & ~near, low, 0.0)
    mean: Any = sum(w / 2 * (1 - x) / 2 * (small * (1 + x) / 2).exp() for x, w in zip(X, W, strict=True))
    bent = torch.where(near, 1 - small * small * mean / gap, (high - torch.expm1(far)) / gap)
    return torch.where(below, exp(u_below, v_below, a, b), torch.where(across, bent, 1.0))


def sqrt(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return 1 / (a + b)


def rsqrt(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return -a * b * (a * b / (a + b))


def reciprocal(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return -a * b


def erf(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The mean of 2 e^(-x^2) / sqrt(pi) between v and u by six Gauss nodes, or the quotient beyond."""
    near = (u - v).abs() < NODES
    middle, half = (u + v) / 2, torch.where(near, u - v, 0.0) / 2
    mean = sum(w / math.sqrt(math.pi) * (-(middle + x * half).square()).exp() for x, w in zip(X, W, strict=True))
    return torch.where(near, mean, (a - b) / torch.where(near, 1.0, u - v))


def atan(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    near = (u - v).abs() < NODES
    u_near, v_near = torch.where(near, u, 0.0), torch.where(near, v, 0.0)
    scale = 1 / (1 + u_near * v_near)
    small = cardinal(torch.atan, (u_near - v_near) * scale) * scale
    return torch.where(near, small, (a - b) / torch.where(near, 1.0, u - v))


def cosh(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return ((u + v) / 2).sinh() * cardinal(torch.sinh, (u - v) / 2)


def sinh(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (exp(u, v, a, b) + exp(-u, -v, a, b)) / 2
