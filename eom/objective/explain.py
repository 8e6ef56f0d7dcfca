"""Errors of a loss, and of torch on it, with what was wanted and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor, nn

from eom.errors import EomError, LossNotDifferentiableError, LossNotScalarError, ParametersError, SettingError

REENTRANT = (
    "a reentrant checkpoint has gradients by .backward() only: pass use_reentrant=False to "
    "torch.utils.checkpoint.checkpoint"
)


def check_scalar(value: Any) -> None:
    """Raise unless ``value`` is one real number as a tensor."""
    if not isinstance(value, Tensor):
        raise LossNotScalarError(
            f"the loss function returned a {type(value).__name__}, expected a tensor with one number: return the "
            "tensor itself, not .item() of it"
        )
    if value.numel() != 1 or value.is_complex():
        kind = "complex" if value.is_complex() else "real"
        raise LossNotScalarError(
            f"the loss has shape {list(value.shape)} ({kind}), expected one real number: reduce it with .mean() or "
            ".sum()"
        )


def check_callables(model: Any, loss_fn: Any) -> None:
    """Raise unless these are a module and a function."""
    if not isinstance(model, nn.Module):
        raise SettingError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    if not callable(loss_fn) or isinstance(loss_fn, nn.Module):
        raise SettingError(
            f"loss_fn is a {type(loss_fn).__name__}, expected a function (model, batch) -> loss: for a loss module "
            "write lambda model, batch: module(model(batch[0]), batch[1])"
        )


def check_setup(setup: Any, name: str = "setup") -> None:
    """Raise unless this can be called without arguments."""
    wanted = "expected a function without arguments that returns (model, loss_fn, data)"
    if not callable(setup):
        raise SettingError(f"{name} is a {type(setup).__name__}, {wanted}")
    try:
        signature(setup).bind()
    except TypeError as missing:
        raise SettingError(f"{name} needs arguments ({missing}), {wanted}") from missing
    except ValueError:  # written in C
        pass


@contextmanager
def explaining() -> Iterator[None]:
    """Say what torch's own errors on a loss mean."""
    try:
        yield
    except EomError:
        raise
    except RuntimeError as failure:
        raise _explained(failure) from failure


def _explained(failure: RuntimeError) -> Exception:
    if "sparse" in str(failure):
        return ParametersError(
            f"a gradient is sparse, expected dense ones: pass sparse=False to the embedding (torch says: {failure})"
        )
    if "use_reentrant" in str(failure):
        return LossNotDifferentiableError(REENTRANT)
    if "torch.utils.checkpoint" in str(failure):
        return LossNotDifferentiableError(
            "a checkpointed segment is recomputed with torch's fused operations, where their exact forms were asked "
            'for: leave the checkpoint out, or pass product="difference"'
        )
    if "not have been used in the graph" in str(failure):
        return LossNotDifferentiableError(
            "the loss, or its gradient, does not depend on the parameters of this model. A loss function that uses "
            "another model than the one it is given, or a checkpoint without use_reentrant=False, is the usual cause; "
            "where second derivatives were asked for, a function that can be differentiated once only: pass "
            'product="difference".'
        )
    if "requires grad" in str(failure) or "not implemented" in str(failure) or "once_differentiable" in str(failure):
        return LossNotDifferentiableError(
            f"torch cannot differentiate this loss as often as asked: {failure}. For second derivatives pass "
            'product="difference" (gradients only), or use method="log-map".'
        )
    return failure
