"""Which models of motion, learned from the same observations, keep the energy, and which predict the state?"""

import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import answer

from eom import physics
from eom.physics import DataSet, LearnedSystem, System, Trajectories, data_sets

SYSTEMS: dict[str, tuple[DataSet, int]] = {  # and how many trajectories are observed
    "spring": (data_sets.springs(20.0, 100), 25),
    "pendulum": (data_sets.pendulums(20.0, 100), 25),
    "two bodies": (data_sets.two_bodies(), 200),
    "damped spring": (data_sets.damped_springs(20.0, 100), 25),
    "pendulum, simulated stand-in for a real one": (data_sets.stand_in_pendulum(), 1),
    "double pendulum": (data_sets.double_pendulums(3.0, 60), 100),
    "three bodies": (data_sets.three_bodies(), 500),
}
WIDTH, BATCH, TESTS, STEPS, SMALL = 100, 200, 10, 2000, 100
SCHEDULE = ((1e-3, 0.5), (3e-4, 0.25), (1e-4, 0.25))  # learning rate of Adam, share of the steps


def adam(model: LearnedSystem, data: Trajectories, steps: int, **settings) -> None:
    """The recipe of all models alike: float32, Adam at falling rates."""
    for lr, share in SCHEDULE:
        optimizer = torch.optim.Adam(model.parameters(), lr)
        physics.fit(model, data, optimizer=optimizer, batch=BATCH, steps=max(1, round(share * steps)), **settings)


def refined(model: LearnedSystem, data: Trajectories, steps: int) -> LearnedSystem:
    """Errors in variables: true states are sought with the field, near the observed ones; LBFGS, float64."""
    adam(model, data, steps // 2)
    model = model.double()
    last = data.states.shape[1] - 1
    model.rule = physics.ErrorsInVariables(model.rule, data, window=last, stride=last)
    for _ in range(max(1, steps // 500)):
        optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", history_size=30)
        physics.fit(model, data, optimizer=optimizer, steps=5, window=last, stride=last)
    return model


def shot(data: Trajectories, steps: int) -> LearnedSystem:
    """T(p) + V(q) through steps of fourth order from first states that are fitted too; LBFGS, ever longer shots."""
    model = physics.symplectic_network(data.size, dense)
    model.stepper = physics.yoshida(physics.Leapfrog())
    model.rule = physics.Shooting(model.stepper)
    adam(model, data, steps // 2)
    model, data, starts = model.double(), data.to(torch.float64), None
    last = data.states.shape[1] - 1
    for window in (last // 9, last // 3, last):
        model.rule = physics.FromFittedStarts(data, model.stepper, window=window, stride=window)
        if starts is not None:
            model.rule.starts.data = starts
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=max(1, steps // 30), line_search_fn="strong_wolfe", history_size=100
        )
        physics.fit(model, data, optimizer=optimizer, steps=1, window=window, stride=window)
        starts = model.rule.starts.detach()[::3].clone()  # of shots three times as long
    return model


def trained(make: Callable[[int], LearnedSystem]) -> Callable[[Trajectories, int], LearnedSystem]:
    def train(data: Trajectories, steps: int) -> LearnedSystem:
        model = make(data.size)
        adam(model, data, steps)
        return model

    return train


def dense(inputs: int, outputs: int) -> torch.nn.Module:
    return physics.dense(inputs, outputs, WIDTH)


def stepped(size: int, field: torch.nn.Module) -> LearnedSystem:
    """Trained through Runge-Kutta steps, predicted by adaptive ones."""
    return LearnedSystem(size, field, physics.Shooting(physics.RK4()), physics.Adaptive())


MODELS: dict[str, Callable[[Trajectories, int], LearnedSystem]] = {
    "neural ODE": trained(lambda n: stepped(n, physics.PlainField(dense(n, n)))),
    "second-order neural ODE": trained(lambda n: stepped(n, physics.SecondOrderField(dense(n, n // 2), n))),
    "Hamiltonian network, rates observed": trained(lambda n: physics.hamiltonian_network(n, dense(n, 1))),
    "Hamiltonian network, Runge-Kutta steps": trained(lambda n: stepped(n, physics.EnergyField(dense(n, 1)))),
    "Lagrangian network": trained(
        lambda n: physics.lagrangian_network(n, physics.dense(n, 1, WIDTH, torch.nn.Softplus))
    ),
    "separable, leapfrog": trained(lambda n: physics.symplectic_network(n, dense)),
    "discrete gradient": trained(lambda n: physics.energy_model(n, dense(n, 1))),
    "discrete gradient, friction learned": trained(lambda n: physics.damped_energy_model(n, dense(n, 1))),
    "separable, first states fitted": shot,
    "discrete gradient, errors in variables": lambda data, steps: refined(
        physics.energy_model(data.size, dense(data.size, 1)), data, steps
    ),
    "discrete gradient, friction learned, errors in variables": lambda data, steps: refined(
        physics.damped_energy_model(data.size, dense(data.size, 1)), data, steps
    ),
}
VELOCITY = {"spring": 2.0, "pendulum": 2.0, "damped spring": 2.0, "two bodies": 1.0, "three bodies": 1.0}  # q' / p


def in_velocities(data: Trajectories, system: System, factor: float) -> tuple[Trajectories, System]:
    """States (q, v), v = factor p, and the system in them."""
    scale = torch.ones(system.size, dtype=torch.float64)
    scale[system.size // 2 :] = factor
    structure = lambda g: scale * system.structure(scale * g)  # noqa: E731
    slopes = None if data.slopes is None else data.slopes * scale
    moved = System(
        system.name, lambda u: system.energy(u / scale.to(u)), structure, system.entries,
        {k: (lambda u, c=c: c(u / scale.to(u))) for k, c in system.conserved.items()}, system.dissipates,
    )  # fmt: skip
    return Trajectories(data.times, data.states * scale, data.entries, slopes), moved


def one(name: str, kind: str, seed: int, steps: int) -> dict[str, object]:
    """A row of the table."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    drawn, count = SYSTEMS[name]
    data, system = drawn.draw(count, seed), drawn.system
    test = drawn.exact(TESTS, seed + 1000)
    if "stand-in" in name:  # one motion, the first four fifths seen
        data, test = data.until(24.0)[0], drawn.exact(1, seed).until(24.0)[1]
    if kind == "Lagrangian network":
        (data, moved), (test, _) = (in_velocities(x, system, VELOCITY[name]) for x in (data, test))
        system = moved
    model = MODELS[kind](data, steps)
    return {"system": name, "model": kind, "seed": seed, **physics.evaluate(model, system, test)._asdict()}


def worth(name: str, kind: str) -> bool:
    """Whether the model says something of the system."""
    system = SYSTEMS[name][0].system
    noisy = SYSTEMS[name][0].noise > 0
    return (
        (kind != "Lagrangian network" or name in VELOCITY)
        and (kind != "separable, leapfrog" or name != "double pendulum")
        and ("friction" not in kind or system.dissipates)
        and ("errors in variables" not in kind or (noisy and system.dissipates == ("friction" in kind)))
        and ("first states" not in kind or (noisy and not system.dissipates))
    )


def main(*, small: bool = False, out: Path | None = None) -> dict[str, float]:
    """Medians over seeds of errors of the true energy and of the state.

    Rows are written to ``out``, if given, as they come; those that are there already are not made again.
    """
    short = ("second-order neural ODE", "discrete gradient", "discrete gradient, errors in variables")
    jobs = (
        [("spring", kind, 0) for kind in short]
        if small
        else [(name, kind, seed) for name in SYSTEMS for seed in range(5) for kind in MODELS if worth(name, kind)]
    )
    rows: list[dict] = pd.read_csv(out).to_dict("records") if out and out.exists() else []
    made = {(row["system"], row["model"], row["seed"]) for row in rows}
    work = joblib.Parallel(n_jobs=1 if small else 2, return_as="generator_unordered")(
        joblib.delayed(one)(*job, SMALL if small else STEPS) for job in jobs if job not in made
    )
    for row in work:
        rows.append(row)  # type: ignore[arg-type] - joblib is untyped
        if out:
            pd.DataFrame(rows).to_csv(out, index=False)
    found = pd.DataFrame(rows).melt(["system", "model"], ["energy", "state"])
    medians = found.groupby(["system", "model", "variable"], sort=False).value.median()
    return {f"{name}: {metric} of {kind}": float(v) for (name, kind, metric), v in medians.items()}  # type: ignore[misc] - pandas types keys as hashables


if __name__ == "__main__":
    answer(__doc__, main, "CSV of all rows")
