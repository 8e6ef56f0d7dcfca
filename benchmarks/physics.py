"""Energy-based models: a training step by discrete gradients over one by gradients, and steps against scipy's fsolve.

    python benchmarks/physics.py [--rounds 7] [--csv FILE]

Training: loss and gradient of (1/N) sum |(u_1 - u_0) / h - G DG(u_1, u_0)|^2 over those of the residual with
grad H((u_0 + u_1) / 2), of the same network, pair by pair: a perceptron 2-200-200-1 in float32 with 2475 pairs, and a
convolutional energy of KdV, 100 channels, in float64 with 200 pairs of 50 points. Prediction: one implicit step of such
energies by scipy.optimize.fsolve on the flattened batch (xtol = 1e-12) over one by the stepper, to the same tolerance
and to its own, which is near rounding. Then steps of
Cahn-Hilliard on 128 x 128 points in a process of their own: CPU seconds and peak memory.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import table
from pairs import paired

WANTED = {
    "training, spring": "at most 2.6",
    "training, KdV": "at most 2.2",
    "prediction, n = 8, batch 15": "at least 15",
    "prediction, the same, ours to rounding": "at least 15",
    "prediction, KdV, 50 points, batch 10": "",
}

LARGE = """
import sys, time, torch
from eom.physics import cahn_hilliard

torch.set_num_threads(1)
system, steps = cahn_hilliard(128, dimensions=2), 15
u = 0.1 * torch.randn(1, system.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
start = time.process_time()
with torch.no_grad():
    system.simulate(u, h=float(sys.argv[1]), steps=steps)
each = (time.process_time() - start) / steps
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]  # kB, from exec on
print(each, peak / 1024)
"""


def perceptron(size: int, width: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1), nn.Flatten(0)
    )


def convolutional(channels: int, scale: float) -> Any:
    """[b, m] -> [b]: the sum over the points of a density of three neighbours."""
    import torch
    from torch import nn

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.density = nn.Sequential(
                nn.Conv1d(1, channels, 3, padding=1, padding_mode="circular"),
                nn.Tanh(),
                nn.Conv1d(channels, channels, 1),
                nn.Tanh(),
                nn.Conv1d(channels, 1, 1),
            )

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return scale * self.density(u[:, None]).sum((1, 2))

    return Energy()


def training(rounds: int) -> dict[str, float]:
    import torch

    from eom.physics import discrete_gradient, korteweg_de_vries, spring

    def ratio(net: Any, structure: Any, u0: torch.Tensor, u1: torch.Tensor, h: float) -> float:
        parameters = list(net.parameters())

        def step(slope: Callable[[], torch.Tensor]) -> Any:
            residual = (u1 - u0) / h - structure(slope())
            return torch.autograd.grad(residual.square().sum(-1).mean(), parameters, allow_unused=True)

        def middle() -> torch.Tensor:
            m = ((u0 + u1) / 2).requires_grad_()
            return torch.autograd.grad(net(m).sum(), m, create_graph=True)[0]

        return paired(lambda: step(lambda: discrete_gradient(net, u1, u0)), lambda: step(middle), rounds)

    torch.manual_seed(0)
    u = torch.randn(2475, 2)
    swing = ratio(perceptron(2, 200), spring().structure, u, u + 0.1 * torch.randn_like(u), 0.1)
    u = torch.randn(200, 50, dtype=torch.float64)
    lattice = korteweg_de_vries(50)
    return {
        "training, spring": swing,
        "training, KdV": ratio(
            convolutional(100, 0.2).double(), lattice.structure, u, u + 0.1 * torch.randn_like(u), 1e-3
        ),
    }


def prediction(rounds: int) -> dict[str, float]:
    import torch
    from scipy.optimize import fsolve

    from eom.physics import DiscreteGradient, EnergySystem, discrete_gradient, korteweg_de_vries
    from eom.physics.systems import rotate

    def ratio(system: EnergySystem, u: torch.Tensor, h: float, rounds: int, rtol: float | None = 1e-12) -> float:
        def off(x: Any) -> Any:
            at = torch.from_numpy(x).view_as(u)
            return (at - u - h * system.structure(discrete_gradient(system.energy, at, u))).flatten().numpy()

        def theirs() -> Any:
            return fsolve(off, u.flatten().numpy(), xtol=1e-12)

        def ours() -> Any:
            return DiscreteGradient(rtol=rtol).step(system, 0.0, h, u, None)[0]

        torch.testing.assert_close(ours().flatten(), torch.from_numpy(theirs()), rtol=1e-8, atol=1e-8)
        return paired(theirs, ours, rounds)

    torch.manual_seed(0)
    net, lattice = perceptron(8, 200).double(), korteweg_de_vries(50)
    chain = EnergySystem(lambda u: net(u) + u.square().sum(-1) / 2, rotate)
    field = EnergySystem(convolutional(100, 0.2).double(), lattice.structure, lattice.grid)
    with torch.no_grad():
        u = torch.randn(15, 8, dtype=torch.float64)
        return {
            "prediction, n = 8, batch 15": ratio(chain, u, 0.1, rounds),
            "prediction, the same, ours to rounding": ratio(chain, u, 0.1, rounds, rtol=None),
            "prediction, KdV, 50 points, batch 10": ratio(
                field, torch.randn(10, 50, dtype=torch.float64), 1e-3, max(1, rounds // 3)
            ),
        }


def large(h: str) -> tuple[float, float]:
    """CPU seconds of a step of Cahn-Hilliard on 128 x 128 points, and megabytes, with malloc as it usually is."""
    plain = {k: v for k, v in os.environ.items() if k not in table.MALLOC}
    said = subprocess.run(
        [sys.executable, "-c", LARGE, h], capture_output=True, text=True, check=True, env=plain
    ).stdout
    each, megabytes = map(float, said.split())
    return each, megabytes


def main() -> None:
    table.hold_still()
    options = table.parser(__doc__, rounds=7).parse_args()
    import torch

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for part in (training, prediction):
        for name, found in part(options.rounds).items():
            rows.append({"what": name, "ratio": found, "wanted": WANTED[name]})
            print(f"{name:40s} {found:7.2f}  wanted: {WANTED[name]}", flush=True)
    for h in ("1e-4", "1e-3"):
        each, megabytes = large(h)
        rows.append({"what": f"Cahn-Hilliard, 128 x 128, h = {h}", "seconds": each, "megabytes": megabytes})
        print(f"{rows[-1]['what']:40s} {each:7.2f} s a step, {megabytes:.0f} MB  wanted: at most 2000")
    table.write(rows, options.csv)


if __name__ == "__main__":
    main()
