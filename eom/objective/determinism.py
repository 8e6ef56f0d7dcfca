"""Is the loss one function, finite, and of the model alone?"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eom.calculus.inner import norm
from eom.errors import LossNotDeterministicError, LossNotDifferentiableError, LossNotFiniteError
from eom.objective import blame
from eom.objective.check import Probe, note
from eom.objective.data import digest, tensors
from eom.objective.explain import REENTRANT
from eom.objective.loss import BatchLoss

if TYPE_CHECKING:
    from eom.objective.objective import Objective


def require_finite(objective: "Objective", value: Tensor, gradient: Tensor) -> None:
    """Raise unless value and gradient are finite."""
    if not torch.isfinite(value):
        raise LossNotFiniteError(
            f"the loss is {value.item()} at these parameters, expected a finite number: look at the data for "
            "NaN, and at logarithms and divisions in the loss"
        )
    bad = [k for k, g in objective.named(gradient).items() if not torch.isfinite(g).all()]
    if bad:
        raise LossNotFiniteError(
            f"the gradient of {bad[0]!r} is not finite though the loss is {value.item():.6g}: sqrt or norm at 0, or "
            "0 * inf behind a torch.where, is the usual cause"
        )


def determinism(objective: "Objective", loss: BatchLoss, theta: Tensor, gradient: Tensor) -> Probe:
    """Compare a second gradient with the first; raise where they differ, with what is random."""
    size, error = float(norm(gradient)), float(norm(objective.gradient(theta) - gradient))
    error = error / size if size else error
    limit = min(1e3 * torch.finfo(theta.dtype).eps, 1e-2)  # atomics on an accelerator; on a CPU it is exactly 0
    if not error <= limit:
        raise LossNotDeterministicError(
            f"two gradients at the same parameters, generator states and buffers differ by {error:.2g} of their "
            f"size, so derivatives do not describe one function: {_cause(loss, theta)}"
        )
    return Probe("same gradient twice", "gradient", error, limit, "passed")


def _cause(loss: BatchLoss, theta: Tensor) -> str:
    before = digest(tensors(loss.batch))
    where = blame.first_to_differ(loss, theta)
    if digest(tensors(loss.batch)) != before:
        return "the loss writes to its batch in place; let it work on a clone"
    return (
        f"{where}. A torch.Generator of one's own, a counter or a cache in the model is the usual cause: draw random "
        "numbers from torch's, Python's or numpy's global generator, which are replayed, or once per batch, outside "
        "the loss."
    )


def value_and_notes(loss: BatchLoss, theta: Tensor, casts: Mapping[str, torch.dtype]) -> tuple[Tensor, list[Probe]]:
    """The loss, and what is no fault, but should be known: random numbers, autocast, tensors outside the model."""
    leaves = [x.detach().requires_grad_() for x in loss.parts(theta)]

    def evaluate() -> tuple[Tensor, bool]:
        with torch.enable_grad():
            value = loss.value(leaves)
        return value, loss.replay.torch_moved()

    value, moved = loss.within(leaves, evaluate)
    generators = ["torch"] * moved + (loss.around.draws or [])
    found = []
    if generators:
        state = hashlib.sha256(loss.replay.cpu.numpy().tobytes()).hexdigest()[:8]
        who = ", ".join(blame.random_modules(loss.around.model)) or f"the loss, from {' and '.join(generators)}"
        found.append(note(f"random numbers are drawn by {who}", f"every evaluation replays them (state {state})"))
    if casts:
        to = ", ".join(f"{d} to {str(x).removeprefix('torch.')}" for d, x in casts.items())
        found.append(
            note(
                f"autocast is on ({to})",
                "H v carries its rounding; theta.double(), or precision=torch.float64 in eom.track, has none",
            )
        )
    if blame.reentrant(value):
        raise LossNotDifferentiableError(REENTRANT)
    outside = blame.outside_parameters(value, leaves)
    value = value.detach()  # and the graph is gone
    if shapes := [str(list(x.shape)) for ref in outside if (x := ref()) is not None]:
        which = f"of shape {', '.join(shapes[:4])}"
        said = f"the loss depends on {len(shapes)} trainable tensor(s) outside the model, {which}"
        found.append(note(said, "they are taken for constants; put them into the model if they are trained too"))
    return value, found
