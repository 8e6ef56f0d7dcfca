"""Gradients of the loss of every sample of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from eom.calculus.inner import dot, norm
from eom.errors import DataError, EomWarning, LossNotDifferentiableError, warn_user
from eom.objective.data import Batch, length, mapped, tensors
from eom.objective.memory import available
from eom.objective.objective import Objective, uses_batch_statistics

AT_ONCE = 1 << 25  # numbers that one call of vmap may make
SHARE = 0.5  # of the memory that there is


def per_sample_gradients(objective: Objective, theta: Tensor) -> Tensor:
    """[N, n] gradients at ``theta`` [n] of the loss of each of the N samples of the data, without the decay.

    Vectorised over samples (vmap); where that cannot be had, one after another, and said. Their mean is tested against
    the gradient of the whole.

    Raises:
        LossNotDifferentiableError: samples are coupled (BatchNorm in train mode, a loss of pairs), the loss is no mean
            over samples, or it draws random numbers.
        DataError: the data is no batch of samples, or the gradients would not fit into the memory.
    """
    require_samples(objective)
    batches = [of_batch(objective, theta, batch) for _, batch in objective.batches]
    found = torch.cat(batches) if len(batches) > 1 else batches[0]
    whole = objective.mean_loss.gradient(theta)
    mean, rounding = found.mean(0), torch.finfo(theta.dtype).eps ** 0.5
    if not float(norm(mean - whole)) <= rounding * float(found.norm(dim=1).mean()):
        raise LossNotDifferentiableError(_no_mean(mean, whole, len(found)))
    return found


def require_samples(objective: Objective) -> None:
    """Raise where the model couples samples by its layers.

    Raises:
        LossNotDifferentiableError: it normalises by batch statistics.
    """
    if uses_batch_statistics(objective.model):
        raise LossNotDifferentiableError(
            "the model normalises by batch statistics (BatchNorm in train mode), so that a sample has no gradient of "
            "its own: call model.eval(), or use GroupNorm or LayerNorm"
        )


def of_batch(objective: Objective, theta: Tensor, batch: Batch) -> Tensor:
    """[N, n] of one batch, untested."""
    samples, leaves = int(length(batch)), list(tensors(batch))
    split = [x.ndim > 0 and len(x) == samples for x in leaves]
    if not (leaves and split[0]):
        raise DataError("the batch has no dimension of samples: expected tensors with a row for each")
    wanted = samples * theta.numel() * theta.element_size()
    if wanted > SHARE * available(theta.device):
        raise DataError(
            f"{samples} gradients of {theta.numel()} parameters take {wanted / 2**30:.1f} GiB, more than half of what "
            "there is: pass a smaller batch"
        )

    def loss(parts: list[Tensor], *xs: Tensor) -> Tensor:
        rows = iter(x[None] if s else x for x, s in zip(xs, split, strict=True))
        one = objective.loss_of(mapped(batch, lambda _: next(rows)))
        return one.within(parts, lambda: one.value(parts))

    parts = objective.loss_of(batch).parts(theta)
    chunk = AT_ONCE // theta.numel()
    over = vmap(
        grad(loss), (None, *(0 if s else None for s in split)), chunk_size=max(1, chunk) if chunk < samples else None
    )
    try:
        with sdpa_kernel(SDPBackend.MATH):  # vmap goes through the fused attention one by one
            return torch.cat([g.flatten(1) for g in over(parts, *leaves)], 1)
    except Exception as failure:  # as many kinds as there are operations that vmap does not know
        found = _one_by_one(loss, parts, leaves, split)
        warn_user(f"samples are differentiated one after another, as vmap failed: {str(failure)[:200]}", EomWarning)
        return found


def _one_by_one(loss: Callable[..., Tensor], parts: list[Tensor], leaves: list[Tensor], split: list[bool]) -> Tensor:
    at, found = [p.detach().requires_grad_() for p in parts], []
    for i in range(len(leaves[0])):
        with torch.enable_grad():
            value = loss(at, *(x[i] if s else x for x, s in zip(leaves, split, strict=True)))
        pieces = torch.autograd.grad(value, at, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in pieces]))
    return torch.stack(found)


def _no_mean(mean: Tensor, whole: Tensor, samples: int) -> str:
    """Why the mean [n] of the samples' gradients is not the gradient [n]."""
    factor = float(dot(mean, whole) / dot(mean, mean))
    along = float(dot(mean, whole) / (norm(mean) * norm(whole)))
    if along > 0.999 and abs(factor / samples - 1) < 0.01:
        return (
            f"the loss is the sum over its {samples} samples, not their mean: divide it by the length of the batch, so "
            "that its noise and its learning rate are those of a mean"
        )
    off = float(norm(mean - whole) / norm(whole))
    return (
        f"the gradient is not the mean of those of its samples (off by {off:.2g} of its size). Dropout and other "
        "randomness, a loss that weights or pairs samples, or normalisation over the batch is the usual cause: call "
        "model.eval(), or write the loss as a mean over samples"
    )
