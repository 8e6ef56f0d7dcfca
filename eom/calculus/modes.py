"""Modes and floats of torch in which there are no derivatives, or no values."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from eom.errors import DataError, SettingError

OTHER = {torch.float64: torch.float32, torch.float32: torch.float64}


def require_derivatives(*at: Tensor) -> None:
    """Raise where there are none ``at`` states [b, n]: inside of ``torch.inference_mode()``, which
    ``torch.enable_grad()`` does not undo, and in forward mode, unless they require gradients: others are detached.
    """
    if torch.is_inference_mode_enabled():
        raise SettingError(
            "torch.inference_mode() is on, and derivatives are needed: take torch.no_grad() instead, or none to train"
        )
    for x in at:
        if not (torch.is_grad_enabled() and x.requires_grad):
            require_no_tangent(x)


def require_no_tangent(x: Tensor) -> None:
    """Raise where forward mode goes along with ``x``."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        raise SettingError(
            "a state has a tangent of torch.autograd.forward_ad, which does not go through the derivatives inside: "
            "take reverse mode, as torch.autograd.grad"
        )


def evaluated(energy: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """energy(u).

    Raises:
        DataError: it takes states in other floats than these.
    """
    try:
        return energy(u)
    except RuntimeError as failure:
        other, here = OTHER.get(u.dtype), u.detach().clone()
        if other is None or _takes(energy, here) or not _takes(energy, here.to(other)):
            raise
        raise DataError(
            f"states are {u.dtype}, and the energy takes {other} alone, as a network in these floats does: bring both "
            "to the same ones, by net.double() or u.float()"
        ) from failure


def _takes(energy: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    try:
        with torch.no_grad():
            energy(u)
    except Exception:  # its own, of whatever kind
        return False
    return True
