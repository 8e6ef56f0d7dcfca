"""Which stochastic equation does a network of random branches follow as its depth grows, and does training tell?

Errors over depth are exact (transfer operators, weights shared over depth). The training compares shake-shake,
stochastic depth and the plain residual network on the digits, three seeds each; then each learned block is cut into n
thinner ones.
"""

import math
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer
from ladders import claims, draw

from eom.analysis.curves import ladder_rows
from eom.demo import cross_entropy, digits
from eom.stochastic import Ladder, ShakeShake, StochasticDepth
from eom.stochastic.examples import random_depth

WIDTH, BLOCKS, TRAINED = 32, 3, 1200
KINDS = ("plain", "shake-shake", "stochastic depth")


class Mean(nn.Module):
    """(F1(x) + F2(x)) / 2."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x) + self.second(x)) / 2


def branch() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


def block(kind: str) -> nn.Module:
    one, other = branch(), branch()
    if kind == "shake-shake":
        return ShakeShake(one, other)
    return StochasticDepth(Mean(one, other), 1.0 if kind == "plain" else 0.8, per="sample")


def network(kind: str, seed: int) -> nn.Module:
    """A perceptron of residual blocks; of one seed all kinds have the same weights at the start."""
    torch.manual_seed(seed)
    blocks = [block(kind) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), *blocks, nn.Linear(WIDTH, 10)).double()


def trained(kind: str, seed: int, epochs: int) -> nn.Module:
    """By SGD with batches of 50 at learning rate .1."""
    images, labels = (x[:TRAINED] for x in digits())
    net = network(kind, seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINED).split(50):
            optimizer.zero_grad()
            cross_entropy(net, (images[rows], labels[rows])).backward()
            optimizer.step()
    return net


@torch.no_grad()
def tested(net: nn.Module) -> tuple[float, float]:
    """Loss and share of right answers on the other digits, in eval mode."""
    images, labels = (x[TRAINED:] for x in digits())
    found = net.eval()(images)
    return float(nn.functional.cross_entropy(found, labels)), float((found.argmax(1) == labels).double().mean())


@torch.no_grad()
def refined(net: nn.Module, cuts: int, scaling: str, draws: int) -> tuple[float, float]:
    """Test loss where each block is cut into ``cuts``, with an eta for each and each sample: mean and 95 % bar.

    "literal" cuts F1 and F2 by n; "diffusive" their mean by n and their difference by sqrt n; "none" has eta = 1/2.
    """
    images, labels = (x[TRAINED:] for x in digits())
    torch.manual_seed(0)
    losses = []
    for _ in range(draws):
        x = net[1](net[0](images))  # type: ignore[index] - a Sequential
        for shaking in net[2:-1]:  # type: ignore[index]
            for _ in range(cuts):
                one, other = shaking.first(x), shaking.second(x)
                eta = torch.rand(len(x), 1, dtype=x.dtype)
                strength = {"literal": 1 / cuts, "diffusive": 1 / math.sqrt(cuts), "none": 0.0}[scaling]
                x = x + (one + other) / (2 * cuts) + strength * (eta - 0.5) * (one - other)
        losses.append(float(nn.functional.cross_entropy(net[-1](x), labels)))  # type: ignore[index]
    values = torch.tensor(losses, dtype=torch.float64)
    return float(values.mean()), 1.96 * float(values.std()) / math.sqrt(draws) if draws > 1 else 0.0


def refinements(net: nn.Module, cuts: list[int], draws: int) -> dict[str, Ladder]:
    """Test loss of cut networks less that of the ODE's, over 1 / n."""
    ode = refined(net, 4 * max(cuts), "none", 1)[0]
    found = {}
    for scaling in ("literal", "diffusive"):
        losses = [refined(net, n, scaling, draws) for n in cuts]
        found[f"{scaling} scaling"] = Ladder(
            tuple(1 / n for n in cuts), tuple(mean - ode for mean, _ in losses), tuple(bar for _, bar in losses)
        )
    return found


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """The numbers the study claims; errors over depth go to ``out`` as CSV if given."""
    depths = random_depth([2**k for k in range(4, 8 if small else 10)])
    seeds, epochs = (1, 3) if small else (3, 30)
    nets = {(kind, seed): trained(kind, seed, epochs) for kind in KINDS for seed in range(seeds)}
    scores = {key: tested(net) for key, net in nets.items()}
    found = claims(depths)
    for kind in KINDS:
        right = [scores[kind, seed][1] for seed in range(seeds)]
        loss = [scores[kind, seed][0] for seed in range(seeds)]
        found[f"{kind}: right answers, mean over seeds"] = sum(right) / seeds
        found[f"{kind}: test loss, mean over seeds"] = sum(loss) / seeds
    cut = refinements(nets["shake-shake", 0], [1, 2, 4] if small else [1, 2, 4, 8, 16, 32], 4 if small else 40)
    literal, diffusive = cut["literal scaling"], cut["diffusive scaling"]
    found["literal scaling: loss off the ODE's at the finest cut over that at the coarsest"] = (
        literal.error[-1] / literal.error[0]
    )
    found["diffusive scaling: the same"] = diffusive.error[-1] / diffusive.error[0]
    if out:
        names = list(depths)
        ladder_rows(
            {
                "shake-shake, readings that hold": ("1 / depth", {n: depths[n] for n in names if depths[n].order}),
                "readings that do not": ("1 / depth", {n: depths[n] for n in names if not depths[n].order}),
                "learned blocks, cut into n": ("1 / n", cut),
            }
        ).to_csv(out, index=False)
        scored = [{"kind": k, "seed": s, "loss": loss, "right": right} for (k, s), (loss, right) in scores.items()]
        pd.DataFrame(scored).to_csv(out.with_name(f"{out.stem}-scores.csv"), index=False)
    return found


if __name__ == "__main__":
    answer(__doc__, main, "CSV of the errors; the scores go beside it", draw)
