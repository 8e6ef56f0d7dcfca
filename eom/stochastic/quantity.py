"""Gradient noise along a training: a quantity to hand to the tracker."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from eom.errors import SettingError
from eom.objective import Objective
from eom.objective.per_sample import require_samples
from eom.stochastic.covariance import FEWEST, TAIL, noise_of

UNITS = {
    "gradient_noise": "loss² per weight²",
    "gradient_noise_scale": "samples",
    "gradient_noise_top": "share of the noise",
    "gradient_noise_curvature": "loss per weight²",
    "gradient_noise_tail": "exponent",
}


@dataclass(frozen=True)
class GradientNoiseAlong:
    """Made by ``gradient_noise``."""

    every: int
    probes: int
    name: str = "gradient_noise"
    units: dict[str, str] = field(default_factory=lambda: UNITS)

    def check(self, objective: Objective) -> None:
        require_samples(objective)

    def __call__(self, objective: Objective, theta: Tensor) -> Iterator[tuple[str, float, float | None]]:
        noise = noise_of(objective, theta)
        trace, scale = noise.trace, noise.scale
        yield "gradient_noise", trace, None
        if math.isfinite(scale):
            yield "gradient_noise_scale", scale, None
        if not trace:  # one sample, or gradients that are all the same
            return
        yield "gradient_noise_top", float(noise.top(1)[0][0]) / trace, None
        if self.probes:
            met = noise.curvature(objective.expansion(theta).hvp, self.probes)
            yield "gradient_noise_curvature", met.value, met.bar
        if noise.samples >= FEWEST / TAIL:
            tail = noise.tail_index()
            yield "gradient_noise_tail", tail.value, tail.bar


def gradient_noise(every: int = 5, probes: int = 4) -> GradientNoiseAlong:
    """Gradient noise of the remembered batch, for ``eom.track(quantities=[...])``.

    Recorded: ``gradient_noise``, Tr Sigma of a sample's gradient; ``_scale``, Tr Sigma / |g|^2, the batch size at which
    noise is as large as the gradient of all data; ``_top``, the share of its largest direction; ``_curvature``, Tr(H
    Sigma) / Tr Sigma, beside which the sharpness stands; ``_tail``, Hill's index, of 100 samples or more.

    For the scale the batch is taken for a sample of larger data; where it is too small to tell, there is no record.

    Args:
        every: records of the tracker (not steps) from one to the next; one costs some 5 gradients of the batch.
        probes: products H v for the curvature, 0 for none.

    Source: McCandlish, Kaplan & Amodei, arXiv 1812.06162, sec. 2.2 (the scale).
    """
    if type(probes) is not int or probes < 0 or probes == 1:
        raise SettingError(f"probes is {probes!r}, expected 0, or 2 or more, whose scatter gives the interval")
    return GradientNoiseAlong(every, probes)
