"""What the recorder is told: once, what is to be recorded; at each step that it follows, the step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from eom.objective.parameters import Layout
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
    """One step as the recorder sees it, while its hook runs: the parameters are read where they lie.

    ``kept`` is theta [n] before the step where a record is due, ``values`` the observables [q] there; ``written`` says
    that the weights are not those that the step before left.
    """

    step: int
    time: float
    descent: Descent
    passes: list[Pass]
    parameters: Sequence[nn.Parameter]
    layout: Layout
    loss: float | None  # None where it was computed elsewhere
    kept: Tensor | None = None
    values: Tensor | None = None
    written: bool = False

    @property
    def untouched(self) -> bool:
        """Whether the gradient is as the backward pass left it."""
        return all(p.grad is None or p.grad._version == 0 for p in self.parameters)

    @property
    def gradients(self) -> list[Tensor]:
        """The run's own gradient, by tensor."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    @property
    def gradient(self) -> Tensor:
        """[n] the run's own gradient."""
        return self.layout.flatten(self.gradients)

    @property
    def after(self) -> Tensor:
        """[n] theta after the step."""
        return self.layout.flatten(self.parameters)

    @cached_property
    def theta(self) -> Tensor:
        """[n] theta before the step; where it was not kept, the step solved backwards."""
        return self.descent.before(self.after, self.gradient) if self.kept is None else self.kept

    @property
    def slope(self) -> Tensor:
        """[n] the run's own slope, of the loss with its penalty."""
        whole = self.gradient.addcmul_(self.descent.decay.to(self.theta), self.theta)
        return whole.mul_(-self.descent.scale.to(self.theta))
