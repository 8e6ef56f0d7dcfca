"""Where derivatives are probed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from eom.calculus.checks import Agreement, agreements, direction
from eom.objective import blame
from eom.objective.verdicts import Limits, limits

if TYPE_CHECKING:
    from eom.objective.objective import Objective


@dataclass(frozen=True)
class Point:
    """Where derivatives are probed: ``theta`` [n], the loss there, and the relative rounding of the loss."""

    objective: "Objective"
    theta: Tensor
    value: Tensor
    eps: float

    @cached_property
    def gradient(self) -> Tensor:
        return self.objective.gradient(self.theta)

    @cached_property
    def v(self) -> Tensor:
        return direction(self.theta, self.sizes, 1)

    @cached_property
    def u(self) -> Tensor:
        return direction(self.theta, self.sizes, 0)

    @property
    def sizes(self) -> Sequence[int]:
        return self.objective.layout.sizes

    @property
    def limits(self) -> Limits:
        return limits(self.eps)

    def along_v(
        self, f: Callable[[Tensor], Tensor], derivative: Tensor, at: Tensor, limit: float, own: float = 0.0
    ) -> dict[str, Agreement]:
        """How f'(theta) v agrees with differences, by tensor; ``at`` = f(theta) [n]."""
        found = agreements(
            f, self.theta, self.v, derivative, at=at, limit=limit, eps=self.eps, sizes=self.sizes, own=own
        )
        return dict(zip(self.objective.layout.names, found, strict=True))

    def blame(self, wrong: blame.Wrong) -> str:
        """Which modules are to blame, as a part of a sentence."""
        found = blame.modules_to_blame(self.objective.mean_loss.first, self.theta, wrong)
        return (
            f"; to blame: {', '.join(found)}" if found else "; no module is wrong alone, so look at the loss function"
        )
