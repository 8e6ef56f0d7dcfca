"""What does a learned structure G of Cahn-Hilliard in two dimensions say: is mass conserved, does energy fall?"""

import sys
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

from eom import physics
from eom.physics import LearnedSystem, Trajectories, data_sets
from eom.physics.kernels import Kernel

PAIRS, STEP = 8, 0.2  # STEP: a typical difference between neighbours


def kernels(points: int) -> dict[str, torch.nn.Module]:
    """3 x 3 stencils as starts: one with any entries, one that keeps mass and lets energy fall by construction."""
    scale = float(points**4)  # of G on gradients by values, as in the true system
    free = physics.FreeKernel((points, points), 3, scale)
    with torch.no_grad():
        free.weight.copy_(torch.rand(3, 3))
        free.weight[1, 1] -= 5.0
    return {"free": free, "guaranteed": physics.DissipativeKernel((points, points), 2, scale=scale)}


def learn(data: Trajectories, points: int, structure: torch.nn.Module, width: int, rounds: int) -> LearnedSystem:
    """Energy and structure together by LBFGS, the energy's last layer by least squares in between."""
    energy = physics.GridEnergy((points, points), width, cell=points**-2.0, step=STEP)
    model = physics.energy_model(points**2, energy, structure).double()
    for _ in range(rounds):
        physics.solve_linear(model, data, [energy.last.weight], rcond=1e-10)
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=60, history_size=60, line_search_fn="strong_wolfe", tolerance_change=1e-14
        )
        physics.fit(model, data, optimizer=optimizer, steps=1)
    physics.solve_linear(model, data, [energy.last.weight], rcond=1e-10)
    return model


def read(
    model: LearnedSystem, drawn: physics.DataSet, test: Trajectories, points: int
) -> tuple[dict[str, float], Kernel]:
    """What the law says, in the gauge in which the kernel's mean diffusion is that of the true Laplacian."""
    kernel: torch.Tensor = model.field.get_submodule("structure").kernel.detach() / points**2  # type: ignore[assignment] - a property, not a module
    found = physics.read_kernel(kernel, 1 / points)
    gauge = float(found.diffusion.diagonal().mean())
    mass = drawn.system.conserved["mass"]
    agreement = physics.compare_energies(
        lambda u: gauge * model.field.get_submodule("energy")(u),
        drawn.system.energy,
        test.states.flatten(0, 1),
        [mass],
    )
    scores = physics.evaluate(model, drawn.system, test)
    return {
        "sum of the kernel over sum of sizes": abs(found.rate) * float(1 / kernel.abs().sum()),
        "largest symbol over the least": found.symbol[1] / found.symbol[0],
        "anisotropy": found.anisotropy,
        "scale of the energy": agreement.scale,
        "residual of the energy": agreement.residual,
        "error of the state": scores.state / float(test.states.var()),
        "steps in which energy rises": scores.rising,
        "drift of mass": scores.invariants,
    }, found  # fmt: skip


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """Medians over seeds of what each learned law says; all rows are written to ``out`` if given."""
    points, width, rounds, seeds = (16, 16, 1, 1) if small else (32, 60, 12, 5)
    rows = []
    for seed in range(seeds):
        drawn = data_sets.separations(points, dt=1e-5, steps=20 if small else 40, dimensions=2)
        window = drawn.draw(4, seed).windows()
        torch.manual_seed(seed)
        chosen = window.rows(torch.randint(len(window.u), (PAIRS,)))
        test = drawn.exact(2, seed + 1000)
        for name, structure in kernels(points).items():
            model = learn(Trajectories(chosen.t, chosen.u), points, structure, width, rounds)
            numbers, law = read(model, drawn, test, points)
            rows.append({"kernel": name, "seed": seed, **numbers})
            if not small:
                print(f"{name} kernel, seed {seed}:", law, sep="\n", file=sys.stderr)
            if out:
                pd.DataFrame(rows).to_csv(out, index=False)
    medians = pd.DataFrame(rows).melt(["kernel", "seed"]).groupby(["kernel", "variable"], sort=False).value.median()
    return {f"{name} kernel: {what}": float(x) for (name, what), x in medians.items()}  # type: ignore[misc] - pandas types keys as hashables


if __name__ == "__main__":
    answer(__doc__, main, "CSV of all rows")
