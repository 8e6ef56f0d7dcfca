"""A second implementation: torchsde takes the same increments to the same states."""

from typing import Any

import pytest
import torch
import torchsde
from torch import Tensor

from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.noise import Additive, Diagonal, General, Scalar
from eom.dynamics.sde import Sde
from eom.dynamics.stepper import end
from eom.dynamics.stochastic_steppers import EulerMaruyama, Milstein, StochasticHeun

H, STEPS, CHANNELS = 1 / 16, 12, {"diagonal": 2, "general": 3, "scalar": 1, "additive": 2}
ROOT = torch.tensor([[0.3, -0.1], [0.2, 0.5]], dtype=torch.float64)


def drift(t: float, y: Tensor) -> Tensor:
    return torch.sin(y) - 0.5 * y.flip(-1)


def entries(t: float, y: Tensor) -> Tensor:
    return 0.4 + 0.3 * torch.cos(y)


def matrix(t: float, y: Tensor) -> Tensor:
    return torch.stack([0.3 * y, torch.cos(y), 0.2 + 0 * y.flip(-1) * y], -1)


NOISES = {
    "diagonal": Diagonal(entries),
    "general": General(matrix, 3),
    "scalar": Scalar(entries),
    "additive": Additive(ROOT),
}
THEIRS = {
    "diagonal": entries,
    "general": matrix,
    "scalar": lambda t, y: entries(t, y)[..., None],
    "additive": lambda t, y: ROOT.expand(len(y), 2, 2),
}


class Increments:
    """Those of a path of ours, for torchsde."""

    levy_area_approximation = "none"

    def __init__(self, path: Brownian, y: Tensor, channels: int):
        self.shape, self.dtype, self.device = (len(y), channels), y.dtype, y.device
        self.steps, place = [], Place()
        for _ in range(STEPS):
            piece, place = path.next(place, H, y, channels)
            self.steps.append(piece.w)

    def __call__(self, start: Tensor, stop: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        return self.steps[round(float(start) / H)]


class Theirs(torch.nn.Module):
    def __init__(self, noise: str, calculus: str):
        super().__init__()
        self.noise_type, self.sde_type, self.g, self.f = noise, calculus, THEIRS[noise], drift


@pytest.mark.parametrize(
    ("stepper", "method", "calculus", "noises"),
    [
        (EulerMaruyama, "euler", "ito", ["diagonal", "general", "scalar", "additive"]),
        (StochasticHeun, "heun", "stratonovich", ["diagonal", "general", "scalar", "additive"]),
        (Milstein, "milstein", "ito", ["diagonal", "scalar", "additive"]),
    ],
)
def test_the_states_are_the_same(stepper, method, calculus, noises):
    y, path = torch.tensor([[0.3, -0.7], [1.1, 0.2], [0.0, 2.0]]), Brownian(3)
    for noise in noises:
        own = end(Sde(drift, NOISES[noise], calculus), stepper(path), y, h=H, steps=STEPS)
        given: Any = Increments(path, y, CHANNELS[noise])  # what torchsde asks of a path, and no more
        times = torch.tensor([0.0, H * STEPS])
        ends = torchsde.sdeint(Theirs(noise, calculus), y, times, bm=given, method=method, dt=H)
        torch.testing.assert_close(own, ends[-1], rtol=0, atol=1e-12, msg=noise)
