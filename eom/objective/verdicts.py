"""Whether derivatives of a function z [n] -> [] are wrong: of a module alone, z being its inputs and parameters.

Ten times stricter than the limits for a whole network, where the share of one module is mixed with what reads it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eom.calculus.checks import agreements, asymmetry, central, direction, scale, worst
from eom.calculus.products import ScalarFunction, gradient_and_product, third_derivative, value_and_gradient


class Limits(NamedTuple):
    """Largest relative error of a slope, of H v and of T."""

    slope: float
    second: float
    third: float


def limits(eps: float) -> Limits:
    """In double precision, and in single, where rounding and kinks leave less to be seen."""
    return Limits(1e-4, 1e-4, 1e-3) if eps < 1e-12 else Limits(1e-2, 5e-2, 1e-1)


def slope_is_wrong(f: ScalarFunction, z: Tensor) -> bool:
    """Whether the gradient is not the derivative of f."""
    slope = value_and_gradient(f, z)[1] @ _direction(z)
    return _off(lambda y: f(y).detach().reshape(1), z, slope.reshape(1), _limits(z).slope)


def second_is_wrong(f: ScalarFunction, z: Tensor) -> bool:
    """Whether H v by double backward is missing, or not what differences of gradients are."""
    try:
        hv = _hvp(f, z, _direction(z))
    except Exception:  # a backward pass of the user's own may raise anything
        return True
    return _off(lambda y: value_and_gradient(f, y)[1], z, hv, _limits(z).second)


def is_asymmetric(f: ScalarFunction, z: Tensor) -> bool:
    """Whether the Jacobian of the gradient is not symmetric."""
    u, v = _direction(z, 0), _direction(z)
    e = scale(z) * torch.finfo(z.dtype).eps ** (1 / 3)
    hu, hv = (central(lambda y: value_and_gradient(f, y)[1], z, w, e) for w in (u, v))
    return not asymmetry(u, v, hu, hv) <= _limits(z).second


def third_is_wrong(f: ScalarFunction, z: Tensor) -> bool:
    """Whether T(v, v) by triple backward is missing, or not what differences of H v are."""
    v = _direction(z)
    try:
        t = third_derivative(f, z, v, v)
    except Exception:  # a backward pass of the user's own may raise anything
        return True
    return _off(lambda y: _hvp(f, y, v), z, t, _limits(z).third)


def _hvp(f: ScalarFunction, z: Tensor, v: Tensor) -> Tensor:
    return gradient_and_product(f, z, lambda g: v)[1]


def _direction(z: Tensor, seed: int = 1) -> Tensor:
    return direction(z, [z.numel()], seed)


def _limits(z: Tensor) -> Limits:
    found = limits(torch.finfo(z.dtype).eps)
    return Limits(*(x / 10 for x in found)) if z.dtype == torch.float64 else found


def _off(f: Callable[[Tensor], Tensor], z: Tensor, derivative: Tensor, limit: float) -> bool:
    eps = torch.finfo(z.dtype).eps
    return not worst(agreements(f, z, _direction(z), derivative, at=f(z), limit=limit, eps=eps)).holds
