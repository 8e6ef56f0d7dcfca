"""`eom demo --physics`: laws of motion learned from noisy pendulums and from waves, predictions and scores."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn
from torch.nn import functional as F

from eom import picturing
from eom.demo import require_empty
from eom.dynamics.runge_kutta import RK4
from eom.errors import StepError
from eom.physics import data_sets, evaluate, fit
from eom.physics.learned_fields import GridEnergy, PlainField, dense
from eom.physics.models import LearnedSystem, energy_model, hamiltonian_network, second_order_ode
from eom.physics.rules import Shooting, midpoint
from eom.physics.trajectories import Trajectories
from eom.physics_findings import Learned, sentences
from eom.physics_page import terminal_table, write

WIDE = torch.float64
SPAN, POINTS, NOISE, MOTIONS = 3.0, 31, 0.05, 30  # of the pendulums that are learned from
LONG, UNSEEN = 20.0, 6  # of those that are predicted, in the same steps
WIDTH, STEPS, BATCH, WINDOW, RATE = 40, 400, 150, 4, 3e-3
GRID, LENGTH, CHANNELS, WAVES, STEP = 24, 10.0, 12, 8, 0.01  # of KdV, and how many solutions are learned from
OTHERS = 3  # solutions that are predicted: one has no spread of its energy
SEEN, AHEAD, ROUNDS = 20, 60, 25  # steps of them, of those that are predicted; LBFGS steps of 20 iterations
EVERY = 2  # states of the animation


class Stencil(nn.Module):
    """Rates of a value by five neighbours on a periodic line, [b, n] -> [b, n]."""

    def __init__(self, channels: int):
        super().__init__()
        layers = nn.Conv1d(1, channels, 5), nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, 1, 1)
        self.net = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

    def forward(self, u: Tensor) -> Tensor:
        return self.net(F.pad(u.unsqueeze(1), (2, 2), mode="circular")).flatten(1)


def run_physics_demo(out: Path, *, small: bool = False) -> Path:
    """Learn, predict, score, print what was found, and return the path of the page; an animation is beside it.

    Raises:
        FolderUsedError: ``out`` holds something already.
    """
    require_empty(out)
    console = Console()
    with one_thread():
        parts = learn_pendulum(console, small), learn_waves(console, small)
    said = sentences(*parts)
    for part in parts:
        console.print(terminal_table(part))
    for sentence in said:
        console.print(Text("• " + sentence))
    out.mkdir(parents=True, exist_ok=True)
    page = write(*parts, LENGTH, said, out)
    pendulum = parts[0]
    film = picturing.animate(
        pendulum.arrived, thinned(pendulum.test), out / "pendulum.gif", rate=10.0,
        predicted={name: thinned(motion) for name, motion in pendulum.predicted.items()},
    )  # fmt: skip
    console.print(f"animation: {film}", soft_wrap=True)
    console.print(f"report: {page}", soft_wrap=True)
    return page


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several, and most of all where another process wants a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learn_pendulum(console: Console, small: bool) -> Learned:
    """Four models of noisy states, by Adam."""
    steps, long, width = (40, 2.0, 16) if small else (STEPS, LONG, WIDTH)
    h = SPAN / (POINTS - 1)
    data = data_sets.pendulums(SPAN, POINTS, NOISE).draw(MOTIONS, seed=0)
    unseen = data_sets.pendulums(long, round(long / h) + 1, 0.0)
    test = unseen.exact(UNSEEN, seed=2)
    console.print(
        f"A pendulum: {MOTIONS} motions of {POINTS} noisy states over {SPAN:g} units of time, {steps} Adam steps for "
        "each model ..."
    )
    ways: dict[str, Callable[[], LearnedSystem]] = {
        "neural ODE": lambda: LearnedSystem(2, PlainField(dense(2, 2, width)), Shooting(RK4()), RK4()),
        "second-order ODE": lambda: second_order_ode(2, dense(2, 1, width)),
        "Hamiltonian network": lambda: hamiltonian_network(2, dense(2, 1, width), rule=Shooting(RK4())),
        "discrete gradient": lambda: energy_model(2, dense(2, 1, width)),
    }
    part = Learned("Pendulum", unseen.system, data, test, SPAN, NOISE)
    for name, way in ways.items():
        model = seeded(way)
        adam = torch.optim.Adam(model.parameters(), RATE)
        part = tried(part, name, model, steps=steps, optimizer=adam, batch=BATCH, window=WINDOW)
    return part


def learn_waves(console: Console, small: bool) -> Learned:
    """KdV on a grid without noise, by LBFGS: an energy whose structure is known, and rates of any kind."""
    rounds, ahead, grid = (3, 10, 12) if small else (ROUNDS, AHEAD, GRID)
    seen = data_sets.solitons(grid, LENGTH, STEP, SEEN)
    test = data_sets.solitons(grid, LENGTH, STEP, ahead).exact(OTHERS, seed=99)
    data = seen.draw(WAVES, seed=0)
    console.print(f"Waves of KdV on {grid} points: {WAVES} solutions, {rounds} LBFGS steps for each model ...")
    ways: dict[str, Callable[[], LearnedSystem]] = {
        "grid energy": lambda: energy_model(grid, GridEnergy((grid,), CHANNELS), seen.system.structure),
        "grid neural ODE": lambda: LearnedSystem(grid, PlainField(Stencil(CHANNELS)), midpoint, RK4()),
    }
    part = Learned("KdV waves", seen.system, data, test, SEEN * STEP, 0.0)
    for name, way in ways.items():
        model = seeded(way)
        lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=20, history_size=50, line_search_fn="strong_wolfe")
        part = tried(part, name, model, steps=rounds, optimizer=lbfgs)
    return part


def seeded(way: Callable[[], LearnedSystem]) -> LearnedSystem:
    """In float64, from seed 0, and the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return way().to(WIDE)


def tried(part: Learned, name: str, model: LearnedSystem, **settings: Any) -> Learned:
    """The part with one more model, trained, its prediction where it did not stop, and its scores."""
    start = time.perf_counter()
    fit(model, part.data, **settings)
    spent = time.perf_counter() - start
    predicted = dict(part.predicted)
    with suppress(StepError):  # evaluate tries again, stops too, and says so by infinite errors
        predicted[name] = model.predict(part.test.states[:, 0], part.test.times)
    scores = evaluate(model, part.system, part.test, predicted=predicted.get(name))
    return replace(
        part, models={**part.models, name: model}, predicted=predicted, scores={**part.scores, name: scores},
        seconds={**part.seconds, name: spent},
    )  # fmt: skip


def thinned(motion: Trajectories) -> Trajectories:
    """Every second state."""
    return Trajectories(motion.times[:, ::EVERY], motion.states[:, ::EVERY], motion.entries)
