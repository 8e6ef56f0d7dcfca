"""The sharpness along a run: each search begins where the last one ended."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.calculus.spectrum import lanczos

LENT = 4 * 10**8  # numbers that a search may hold


@dataclass
class Sharpness:
    """The largest eigenvalue of the Hessian, at one of ``every`` records; ``direction`` [n] is where it was found."""

    every: int
    direction: Tensor | None = None

    def due(self, records: int) -> bool:
        """Whether it is the turn of the last one of so many records."""
        return self.every > 0 and (records - 1) % self.every == 0

    def find(self, hvp: Callable[[Tensor], Tensor], scale: Tensor, theta: Tensor) -> tuple[float, float]:
        """The largest eigenvalue at ``theta`` [n], preconditioned to the reference learning rate, and its residual."""
        root, start = scale.to(theta).sqrt(), self.direction
        if start is None or start.dtype != theta.dtype:
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(theta)
        room = max(3, min(40, LENT // theta.numel()))
        uniform = not root.ndim and float(root) == 1  # without copies
        product = hvp if uniform else lambda v: root * hvp(root * v)
        found = lanczos(product, start, rtol=1e-4, steps=40, room=room)
        self.direction = found.vectors[0]
        return found.eigenvalues[0].item(), found.residuals[0].item()
