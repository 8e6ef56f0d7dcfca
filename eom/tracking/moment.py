"""What the recorder is told: once, what is to be recorded; at each step that it follows, the step."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eom.tracking.snapshot import Pass
from eom.training.descent import Descent


@dataclass(frozen=True)
class Settings:
    """What is recorded, and how; see ``eom.track``."""

    order: int | None
    product: str
    bars: bool
    sharpness: int
    horizon: int | None
    horizons: int
    precision: torch.dtype | None

    def plain(self) -> dict[str, Any]:
        """As a manifest holds them."""
        return asdict(self) | {"precision": self.precision and str(self.precision).removeprefix("torch.")}


@dataclass
class Moment:
    """One step as the recorder sees it: theta before and after [n], the run's own gradient [n], its batches."""

    step: int
    time: float
    descent: Descent
    passes: list[Pass]
    theta: Tensor
    after: Tensor
    gradient: Tensor
    untouched: bool  # the gradient is as the backward pass left it
    loss: float | None  # None where it was computed elsewhere
    assumed: bool = False  # theta is taken to be where the step before ended

    @cached_property
    def slope(self) -> Tensor:
        """The run's own slope [n], of the loss with its penalty."""
        whole = torch.addcmul(self.gradient, self.descent.decay.to(self.theta), self.theta)
        return whole.mul_(-self.descent.scale.to(self.theta))
