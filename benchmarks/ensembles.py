"""Paths of stochastic equations per second against torchsde, and the noise of gradients in units of one gradient.

    python benchmarks/ensembles.py [--rounds 7] [--csv FILE]

1024 paths in ten dimensions with diagonal noise to time 1, in float32 on one thread: the ratio of paths per second,
pair by pair. Then gradients of single samples against a loop over backward passes, and one sample of the noise against
one gradient, of a perceptron with 6570 parameters and a batch of 256.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import table
from pairs import paired

PATHS, SIZE, STEPS = 1024, 10, 128
WANTED = {"euler": 4.0, "srk": 2.0}


def ensembles(rounds: int) -> list[dict[str, Any]]:
    import torch
    import torchsde

    from eom.stochastic import SRA1, Additive, Diagonal, EulerMaruyama, Milstein, Platen, Sde, StochasticHeun, ensemble

    y = torch.ones(PATHS, SIZE)

    class Theirs(torch.nn.Module):
        noise_type = "diagonal"

        def __init__(self, kind: str, additive: bool):
            super().__init__()
            self.sde_type, self.additive = kind, additive

        def f(self, t: Any, y: Any) -> Any:
            return -y

        def g(self, t: Any, y: Any) -> Any:
            return torch.full_like(y, 0.5) if self.additive else 0.5 * torch.cos(y)

    moving = Sde(lambda t, y: -y, Diagonal(lambda t, y: 0.5 * torch.cos(y)))
    midway = Sde(moving.drift, moving.noise, "stratonovich")
    still = Sde(lambda t, y: -y, Additive(0.5))

    def theirs(method: str, *, kind: str = "ito", additive: bool = False, steps: int = STEPS) -> Callable[[], Any]:
        sde, times = Theirs(kind, additive), torch.tensor([0.0, 1.0])
        return lambda: torchsde.sdeint(sde, y, times, method=method, dt=1 / steps)

    def ours(stepper: Any, sde: Any = moving, steps: int = STEPS) -> Callable[[], Any]:
        return lambda: ensemble(sde, stepper, y, h=1 / steps, steps=steps)

    def plain() -> Any:
        x = y
        for _ in range(STEPS):
            x = x - x / STEPS + 0.5 * torch.cos(x) * torch.randn(PATHS, SIZE) / STEPS**0.5
        return x

    pairs = {
        "a plain loop over torchsde's euler": (theirs("euler"), plain),
        "EulerMaruyama over torchsde's euler": (theirs("euler"), ours(EulerMaruyama())),
        "Milstein over torchsde's milstein": (theirs("milstein"), ours(Milstein())),
        "StochasticHeun over torchsde's heun": (theirs("heun", kind="stratonovich"), ours(StochasticHeun(), midway)),
        "SRA1 over torchsde's srk, additive noise": (theirs("srk", additive=True), ours(SRA1(), still)),
        "Platen over torchsde's srk, both of order 2 or 1.5": (theirs("srk"), ours(Platen())),
        "EulerMaruyama at dt = .01 over torchsde's euler": (
            theirs("euler", steps=100),
            ours(EulerMaruyama(), steps=100),
        ),
    }
    rows = []
    with torch.no_grad():
        for name, (slow, fast) in pairs.items():
            few = max(1, rounds // 3) if "dt = .01" in name else rounds
            rows.append({"what": name, "times faster": paired(slow, fast, few)})
            print(f"{name:55s} {rows[-1]['times faster']:7.2f}", flush=True)
    return rows


def gradients(rounds: int) -> list[dict[str, Any]]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    import eom
    from eom.stochastic import noise_of, per_sample_gradients

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    x, y = torch.randn(256, 64), torch.randint(10, (256,))
    objective = eom.Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), (x, y))
    theta, parameters = objective.theta(), list(model.parameters())

    def loop() -> Any:
        return [torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), parameters) for i in range(256)]

    pieces = {name: p.detach() for name, p in model.named_parameters()}

    def one(at: Any, image: Any, label: Any) -> Any:
        return F.cross_entropy(torch.func.functional_call(model, at, (image[None],)), label[None])

    bare = torch.func.vmap(torch.func.grad(one), (None, 0, 0))
    noise = noise_of(objective)
    ratios = {
        "a loop over per-sample gradients by vmap (wanted 20)": paired(
            loop, lambda: per_sample_gradients(objective, theta), rounds
        ),
        "a loop over torch's vmap alone, in pieces, untested": paired(loop, lambda: bare(pieces, x, y), rounds),
        "per-sample gradients in gradients": paired(
            lambda: per_sample_gradients(objective, theta), lambda: objective.gradient(theta), rounds
        ),
        "one noise sample in gradients (wanted at most .3)": paired(
            lambda: [noise(torch.randn(256)) for _ in range(20)],
            lambda: [objective.gradient(theta) for _ in range(20)],
            rounds,
        ),
    }
    for name, ratio in ratios.items():
        print(f"{name:55s} {ratio:7.2f}", flush=True)
    return [{"what": name, "times faster": ratio} for name, ratio in ratios.items()]


def main() -> None:
    table.hold_still()
    options = table.parser(__doc__, rounds=7).parse_args()
    import torch

    torch.set_num_threads(1)
    rows = gradients(options.rounds)
    if find_spec("torchsde"):
        rows += ensembles(options.rounds)
    print(f"wanted: {WANTED['euler']} times torchsde's euler, {WANTED['srk']} times its srk")
    table.write(rows, options.csv)


if __name__ == "__main__":
    main()
