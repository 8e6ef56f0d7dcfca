"""The noise of mini-batch gradients, at one point of a training: its covariance by an exact root of low rank.

Sigma = (1/N) sum_i (g_i - g)(g_i - g)^T is the covariance [n, n] of the gradient of one sample, root^T root for the
centred gradients over sqrt N. The gradient of a batch of B has the covariance Sigma / B where it is drawn with
replacement, and Sigma / B (N - B) / (N - 1) without.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eom.calculus.inner import dot
from eom.errors import SettingError
from eom.objective import Objective
from eom.objective.per_sample import per_sample_gradients

TAIL = 0.1  # of the samples, whose gradients are the largest
FEWEST = 10  # samples of a tail


class Estimate(NamedTuple):
    """A number and the half-width of its 95 % interval."""

    value: float
    bar: float


@dataclass(frozen=True)
class GradientNoise:
    """Sigma of the gradient of one sample, by its ``root`` [N, n], and the ``mean`` [n] gradient."""

    root: Tensor
    mean: Tensor

    @property
    def samples(self) -> int:
        return len(self.root)

    @property
    def trace(self) -> float:
        """Tr Sigma, the mean of |g_i - g|^2 over samples, in squares of loss per weight."""
        return float(dot(self.root.reshape(-1), self.root.reshape(-1)))

    @property
    def signal(self) -> float:
        """|g|^2 of larger data that these N samples were drawn from, without bias: |mean|^2 - Tr Sigma / (N - 1)."""
        return float(dot(self.mean, self.mean)) - self.trace / max(self.samples - 1, 1)

    @property
    def scale(self) -> float:
        """Tr Sigma / |g|^2 of that data: the batch at which noise is as large as the gradient; inf where none can tell.

        Source: McCandlish, Kaplan & Amodei, arXiv 1812.06162, appendix A.1.
        """
        n = self.samples
        return self.trace * n / max(n - 1, 1) / self.signal if self.signal > 0 else math.inf

    def share(self, batch_size: int, replacement: bool = False) -> float:
        """Of Sigma, the covariance of a batch's gradient: 1/B, or (N - B) / (B (N - 1)) without replacement.

        Raises:
            SettingError: a batch larger than the data, or empty.
        """
        n = self.samples
        if type(batch_size) is not int or not 1 <= batch_size <= n:
            raise SettingError(f"the batch size is {batch_size!r}, expected a whole number from 1 to the {n} samples")
        return 1 / batch_size if replacement else (n - batch_size) / (batch_size * max(n - 1, 1))

    def __call__(self, z: Tensor) -> Tensor:
        """[..., n] of covariance Sigma, from standard normal numbers ``z`` [..., N]."""
        return z @ self.root

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` largest eigenvalues of Sigma, descending, and unit eigenvectors [k, n]; from the root's [N, N]."""
        rank = min(self.samples - 1, self.root.shape[1])  # the centred gradients sum to zero
        if type(k) is not int or not 1 <= k <= rank:
            raise SettingError(f"k is {k!r}, expected a whole number from 1 to {rank}, the rank that noise can have")
        values, vectors = torch.linalg.eigh(self.root.double() @ self.root.double().T)
        values, vectors = values[-k:].flip(0), vectors[:, -k:].flip(1)
        directions = vectors.T.to(self.root) @ self.root
        return values, directions / directions.norm(dim=1, keepdim=True)

    def along(self, directions: Tensor) -> Tensor:
        """[k] shares of Tr Sigma that lie along unit vectors [k, n]; of isotropic noise each had 1/n."""
        return (directions @ self.root.T).square().sum(1) / self.trace

    def curvature(self, hvp: Callable[[Tensor], Tensor], probes: int = 16, seed: int = 0) -> Estimate:
        """Tr(H Sigma) / Tr Sigma, the curvature that the noise meets, from ``probes`` products with noise.

        ``hvp`` is v -> H v at the same place, such as ``objective.expansion(theta).hvp``.

        Between the smallest and the largest eigenvalue of H; noise that knows nothing of H meets Tr H / n.
        """
        generator = torch.Generator(self.root.device).manual_seed(seed)
        z = torch.randn(probes, self.samples, generator=generator, dtype=self.root.dtype, device=self.root.device)
        met = torch.stack([dot(v, hvp(v)) for v in self(z)]) / self.trace
        return Estimate(float(met.mean()), 1.96 * float(met.std()) / math.sqrt(probes))

    def tail_index(self) -> Estimate:
        """Hill's estimate of a in P(|g_i - g| > x) ~ x^-a, from the largest tenth of the samples.

        Below 2 the variance of one gradient would be infinite, and no SDE with Gaussian noise describes SGD; light
        tails give large values. Source: Hill, Ann. Statist. 3(5), 1975.

        Raises:
            SettingError: fewer than a hundred samples, from which no tail can be read.
        """
        k = int(TAIL * self.samples)
        if k < FEWEST:
            raise SettingError(f"{self.samples} samples have no tail to be read: expected {int(FEWEST / TAIL)} or more")
        sizes = self.root.norm(dim=1).double().sort(descending=True).values
        spread = float((sizes[:k] / sizes[k]).log().mean())
        a = 1 / spread if spread else math.inf
        return Estimate(a, 1.96 * a / math.sqrt(k))


def noise_of(objective: Objective, theta: Tensor | None = None) -> GradientNoise:
    """The gradient noise of an objective's data at ``theta`` [n], the present parameters by default.

    Raises:
        LossNotDifferentiableError, DataError: samples have no gradients of their own; see ``per_sample_gradients``.
    """
    theta = objective.theta() if theta is None else theta
    if theta.shape != objective.theta().shape:
        raise SettingError(f"theta is {list(theta.shape)}, expected [n] = {list(objective.theta().shape)}")
    gradients = per_sample_gradients(objective, theta)
    mean = gradients.mean(0)
    return GradientNoise((gradients - mean).div_(math.sqrt(len(gradients))), mean)
