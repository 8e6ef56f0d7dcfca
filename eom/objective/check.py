"""The self-test: is this loss one function, and are its derivatives right, on the user's own model?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eom.errors import (
    LossNotDeterministicError,
    LossNotDifferentiableError,
    LossNotFiniteError,
)

if TYPE_CHECKING:
    from eom.objective.objective import Objective


@dataclass(frozen=True)
class Probe:
    """One test: its relative error, the largest one allowed, and what to do where it fails."""

    check: str
    value: float
    limit: float
    verdict: str  # "passed" or "failed"
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """The result of the self-test, and the route it chose for Hessian-vector products.

    ``product`` is "double-backward", or "difference" where the former is wrong or missing; ``third`` says whether
    third derivatives may be used; ``dtype`` is the precision the probes ran in.
    """

    probes: tuple[Probe, ...]
    product: str
    third: bool
    dtype: str

    @property
    def passed(self) -> bool:
        return all(p.verdict == "passed" for p in self.probes)


def run_checks(objective: "Objective", order: int) -> Check:
    """Probe value, gradient, H v, its symmetry, and from order 2 on T(v, v), at the present parameters.

    Second and third derivatives are compared with central differences of the ones before, over a ladder of step
    sizes, so that rounding (large for small steps) and kinks (large for large ones) are told from a wrong formula
    (large for all). They run in float64 where the model can be evaluated in it.

    Raises:
        LossNotFiniteError, LossNotDeterministicError, LossNotDifferentiableError, ParametersError.
    """
    theta = objective.theta()
    value, gradient = objective.loss(theta), objective.gradient(theta)
    _require_finite(objective, value, gradient)
    probes = [_determinism(objective, theta, value, gradient)]
    theta = _widest(objective, theta)
    exact = theta.dtype == torch.float64
    u, v = (torch.randn(theta.shape, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    u, v = (x.to(theta) / x.norm() for x in (u, v))
    second = _second(objective, theta, u, v, limit=1e-4 if exact else 5e-2)
    probes += second
    works = all(p.verdict == "passed" for p in second)
    if order >= 2:
        probes.append(_third(objective, theta, v, limit=1e-3 if exact else 1e-1))
    third = order >= 2 and works and probes[-1].verdict == "passed"
    product = objective.product if works else "difference"
    return Check(tuple(probes), product, third, str(theta.dtype).removeprefix("torch."))


def _require_finite(objective: "Objective", value: Tensor, gradient: Tensor) -> None:
    if not torch.isfinite(value):
        raise LossNotFiniteError(
            f"the loss is {value.item()} at the initial parameters, expected a finite number: look at the data for "
            "NaN, and at logarithms and divisions in the loss"
        )
    bad = [k for k, g in objective.named(gradient).items() if not torch.isfinite(g).all()]
    if bad:
        raise LossNotFiniteError(
            f"the gradient of {bad[0]!r} is not finite though the loss is {value.item():.6g}: sqrt or norm at 0, or "
            "0 * inf behind a torch.where, is the usual cause"
        )
    if not gradient.any():
        raise LossNotDifferentiableError(
            "the gradient is exactly zero in every parameter: the loss does not depend on this model, or enters "
            "through .detach() or .data"
        )


def _determinism(objective: "Objective", theta: Tensor, value: Tensor, gradient: Tensor) -> Probe:
    again = objective.gradient(theta)
    error = _relative(again, gradient)
    limit = 1e3 * torch.finfo(theta.dtype).eps  # atomics on an accelerator; on a CPU the error is exactly 0
    if not error <= limit:
        raise LossNotDeterministicError(
            f"two gradients at the same parameters, generator states and buffers differ by {error:.2g} of their size, "
            "so derivatives do not describe one function. Randomness from outside torch (numpy, random), a counter or "
            "a cache in the model is the usual cause: draw it once per batch, outside the loss."
        )
    return _probe("loss is one function", error, limit)


def _widest(objective: "Objective", theta: Tensor) -> Tensor:
    """``theta`` in float64 if the model can be evaluated there, else as it is."""
    try:
        objective.loss(theta.double())
    except (RuntimeError, TypeError):  # a dtype written into the model
        return theta
    return theta.double()


def _second(objective: "Objective", theta: Tensor, u: Tensor, v: Tensor, limit: float) -> list[Probe]:
    remedy = "H v is taken by a forward difference of gradients instead (product='difference')"
    try:
        _, _, hvp = objective.expansion(theta)
        hu, hv = hvp(u), hvp(v)
    except RuntimeError as failure:
        reason = str(failure).splitlines()[0]
        return [_probe(f"H v exists ({reason})", float("inf"), limit, remedy)]
    difference = _ladder(objective.gradient, theta, v, hv)
    scale = (hu.norm() * hv.norm()).sqrt().item() or 1.0
    symmetry = abs((u @ hv - v @ hu).item()) / scale
    return [
        _probe("H v against central differences", difference, limit, remedy),
        _probe("u . H v = v . H u", symmetry, limit, remedy),
    ]


def _third(objective: "Objective", theta: Tensor, v: Tensor, limit: float) -> Probe:
    remedy = (
        "order 2 is had by the log map only (LayerNorm and train-mode BatchNorm: torch's third derivatives are wrong)"
    )
    try:
        error = _ladder(lambda y: objective.hvp(y, v), theta, v, objective.third(theta, v, v))
    except RuntimeError as failure:
        return _probe(f"T(v, v) exists ({str(failure).splitlines()[0]})", float("inf"), limit, remedy)
    return _probe("T(v, v) against central differences", error, limit, remedy)


def _ladder(f: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, derivative: Tensor) -> float:
    """Smallest relative error of f'(y) v against central differences over two steps."""
    eps = torch.finfo(y.dtype).eps
    size = y.norm().clamp(min=1.0)
    steps = [size * eps**power for power in (0.33, 0.5)]
    return min(_relative(derivative, (f(y + e * v) - f(y - e * v)) / (2 * e)) for e in steps)


def _relative(x: Tensor, reference: Tensor) -> float:
    size = reference.norm().item()
    error = (x - reference).norm().item()
    return error / size if size else error


def _probe(check: str, error: float, limit: float, remedy: str = "") -> Probe:
    return Probe(check, error, limit, "passed") if error <= limit else Probe(check, error, limit, "failed", remedy)
