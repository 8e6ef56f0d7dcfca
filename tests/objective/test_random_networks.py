"""Over random networks on the digits the self-test raises no false alarm, and overlooks no wrong module."""

import random

import pytest
import torch
from awkward import Cube
from torch import Tensor, nn

from eom.demo import cross_entropy, digits
from eom.objective import Objective

pytestmark = pytest.mark.slow
SMOOTH = [nn.GELU, nn.SiLU, nn.Tanh]
KINKED = [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ELU]


class Cut(nn.Module):
    """Takes the derivative of its cube for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(torch.tanh(x))  # type: ignore


class Attention(nn.TransformerEncoderLayer):
    """On four tokens."""

    def __init__(self, width: int):
        super().__init__(width // 4, 4, width // 2, 0.0, activation="gelu", batch_first=True)

    def forward(self, src: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(src.view(len(src), 4, -1)).flatten(1)


def network(seed: int, *, wrong: bool) -> Objective:
    random.seed(seed)
    torch.manual_seed(seed)
    mixing = random.choice([nn.Identity, nn.LayerNorm, nn.BatchNorm1d, Attention])
    width, kind = (
        random.choice([32, 128] if mixing is Attention else [8, 32, 128, 512]),
        random.choice(SMOOTH if wrong else SMOOTH + KINKED),
    )
    layers: list[nn.Module] = [nn.Linear(64, width)]
    for _ in range(random.randint(1, 5)):
        layers += [mixing(width), kind(), nn.Linear(width, width)]
    if wrong:
        layers.insert(random.randrange(1, len(layers)), Cut())
    x, labels = digits(random.choice([32, 256, 1797]))
    model = nn.Sequential(*layers, nn.Linear(width, 10)).float()
    return Objective(model, cross_entropy, (x.flatten(1).float(), labels))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", range(30))
def test_a_right_network_passes(seed, order):
    check = network(seed, wrong=False).check(order)
    assert check.passed, check
    assert check.product == "double-backward"


@pytest.mark.parametrize("seed", range(30))
def test_a_module_whose_second_derivative_is_lost_is_found_and_named(seed):
    """Kinks may hide it: so near that even the shorter step crosses some."""
    check = network(seed, wrong=True).check()
    assert check.product == "difference", check
    assert "(Cut)" in check.reason
