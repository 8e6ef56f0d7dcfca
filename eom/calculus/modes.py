"""Modes of torch in which there are no derivatives."""

import torch

from eom.errors import SettingError


def require_derivatives() -> None:
    """Raise inside of ``torch.inference_mode()``, which ``torch.enable_grad()`` does not undo."""
    if torch.is_inference_mode_enabled():
        raise SettingError(
            "torch.inference_mode() is on, and derivatives are needed: take torch.no_grad() instead, or none to train"
        )
