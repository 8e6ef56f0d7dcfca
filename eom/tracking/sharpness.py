"""The sharpness along a run: each search begins where the last one ended, and looks about."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.calculus.inner import norm
from eom.calculus.spectrum import lanczos

LENT = 4 * 10**8  # numbers that a search may hold
RTOL = 1e-4  # of the eigenvalue, as estimated
ABOUT = 0.01  # length of the random part of a start: what was orthogonal to all that was found may have grown since


@dataclass
class Sharpness:
    """The largest eigenvalue of the Hessian, at one of ``every`` records.

    ``direction`` [n] is the best eigenvector found last, with a part of the next ones: one of them may be the best now.
    """

    every: int
    direction: Tensor | None = None

    def due(self, records: int) -> bool:
        """Whether it is the turn of the last one of so many records."""
        return self.every > 0 and (records - 1) % self.every == 0

    def find(self, hvp: Callable[[Tensor], Tensor], scale: Tensor, theta: Tensor) -> tuple[float, float]:
        """The largest eigenvalue at ``theta`` [n], preconditioned to the reference learning rate, and its residual."""
        root, generator = scale.to(theta).sqrt(), torch.Generator().manual_seed(0)
        start = torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(theta)
        if self.direction is not None:
            start.mul_(ABOUT / float(norm(start))).add_(self.direction.to(start))
        room = max(3, min(40, LENT // theta.numel()))
        uniform = not root.ndim and float(root) == 1  # without copies
        product = hvp if uniform else lambda v: root * hvp(root * v)
        found = lanczos(product, start, rtol=RTOL, steps=40, room=room)
        self.direction = found.several
        return found.eigenvalues[0].item(), found.residuals[0].item()
