"""Whether derivatives of a function z [n] -> [] are wrong: of a module alone, z being its inputs and parameters.

Ten times stricter than the limits for a whole network, where the share of one module is mixed with what reads it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eom.calculus.checks import asymmetry, best, central, direction, ladder, scale, slope_error
from eom.calculus.products import ScalarFunction, expand, third_derivative, value_and_gradient

FINE, COARSE = (1e-4, 1e-3), (5e-2, 1e-1)  # largest relative error of H v and of T, in double and in single


def slope_is_wrong(f: ScalarFunction, z: Tensor) -> bool:
    """Whether the gradient is not the derivative of f."""
    _, v, limit = _alone(z, 0)
    value, g = value_and_gradient(f, z)
    size, eps = abs(float(value)), torch.finfo(z.dtype).eps
    return not slope_error(lambda y: f(y).detach(), z, v, g, limit=limit, size=size, eps=eps) <= limit


def second_is_wrong(f: ScalarFunction, z: Tensor) -> bool:
    """Whether H v by double backward is missing, or not what differences of gradients are."""
    _, v, limit = _alone(z, 0)
    try:
        hv = expand(f, z).hvp(v)
    except Exception:  # a backward pass of the user's own may raise anything
        return True
    return _off(lambda y: value_and_gradient(f, y)[1], z, v, hv, limit)


def is_uneven(f: ScalarFunction, z: Tensor) -> bool:
    """Whether the Jacobian of the gradient is not symmetric."""
    u, v, limit = _alone(z, 0)
    e = scale(z) * torch.finfo(z.dtype).eps ** (1 / 3)
    hu, hv = (central(lambda y: value_and_gradient(f, y)[1], z, w, e) for w in (u, v))
    return not asymmetry(u, v, hu, hv) <= limit


def third_is_wrong(f: ScalarFunction, z: Tensor) -> bool:
    """Whether T(v, v) by triple backward is missing, or not what differences of H v are."""
    _, v, limit = _alone(z, 1)
    try:
        t = third_derivative(f, z, v, v)
    except Exception:  # a backward pass of the user's own may raise anything
        return True
    return _off(lambda y: expand(f, y).hvp(v), z, v, t, limit)


def _alone(z: Tensor, which: int) -> tuple[Tensor, Tensor, float]:
    """Two directions, and the limit of H v (0) or T (1)."""
    u, v = (direction(z, [z.numel()], seed) for seed in (0, 1))
    return u, v, FINE[which] / 10 if z.dtype == torch.float64 else COARSE[which]


def _off(f: Callable[[Tensor], Tensor], z: Tensor, v: Tensor, derivative: Tensor, limit: float) -> bool:
    size, eps = float(f(z).norm()), torch.finfo(z.dtype).eps
    rungs = ladder(f, z, v, derivative, sizes=[z.numel()], limit=limit, size=size, eps=eps)
    return not best(rungs, limit).error <= limit
