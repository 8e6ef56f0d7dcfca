"""Is the loss one function, finite, and of the model alone?"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eom.errors import LossNotDeterministicError, LossNotDifferentiableError, LossNotFiniteError
from eom.objective import blame
from eom.objective.check import Probe
from eom.objective.loss import BatchLoss

if TYPE_CHECKING:
    from eom.objective.objective import Objective


def require_finite(objective: "Objective", value: Tensor, gradient: Tensor) -> None:
    """Raise unless value and gradient are finite, and the gradient is not zero everywhere."""
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


def determinism(objective: "Objective", loss: BatchLoss, theta: Tensor, gradient: Tensor) -> Probe:
    """Compare a second gradient with the first; raise where they differ, with what is random."""
    size, error = float(gradient.norm()), float((objective.gradient(theta) - gradient).norm())
    error = error / size if size else error
    limit = 1e3 * torch.finfo(theta.dtype).eps  # atomics on an accelerator; on a CPU the error is exactly 0
    if not error <= limit:
        raise LossNotDeterministicError(
            f"two gradients at the same parameters, generator states and buffers differ by {error:.2g} of their "
            f"size, so derivatives do not describe one function: {blame.first_to_differ(loss, theta)}. "
            "Randomness from outside torch (numpy, random), a counter or a cache in the model is the usual cause: "
            "draw it once per batch, outside the loss."
        )
    return Probe("loss is one function", "gradient", error, limit, "passed")


def notes(loss: BatchLoss, theta: Tensor, casts: Mapping[str, torch.dtype]) -> Iterator[Probe]:
    """What is no fault, but should be known: random numbers, autocast, trainable tensors outside the model."""
    leaves = [x.detach().requires_grad_() for x in loss.parts(theta)]

    def evaluate() -> tuple[Tensor, bool]:
        with torch.enable_grad():
            value = loss.value(leaves)
        return value, loss.replay.consumed_randomness()

    value, drawn = loss.within(leaves, evaluate)
    if drawn:
        state = hashlib.sha256(loss.replay.cpu.numpy().tobytes()).hexdigest()[:8]
        who = ", ".join(blame.random_modules(loss.around.model)) or "the loss function"
        yield note(f"random numbers are drawn by {who}", f"every evaluation replays torch's generator ({state})")
    if casts:
        to = ", ".join(f"{d} to {str(x).removeprefix('torch.')}" for d, x in casts.items())
        yield note(f"autocast is on ({to})", "precision=torch.float64 evaluates outside of it")
    if outside := blame.outside_parameters(value, leaves):
        shapes = ", ".join(str(list(x.shape)) for x in outside[:4])
        yield note(
            f"the loss depends on {len(outside)} trainable tensors outside the model ({shapes})",
            "they are taken for constants; put them into the model if they are trained too",
        )


def note(check: str, remedy: str, value: float = 0.0) -> Probe:
    return Probe(check, "", value, 0.0, "noted", remedy)
