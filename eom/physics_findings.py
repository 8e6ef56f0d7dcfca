"""What `eom demo --physics` found, in sentences that are read off the scores of that run alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from eom.analysis.words import number, percent
from eom.physics.metrics import Scores
from eom.physics.models import LearnedSystem
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories

ROUNDING = 1e-9  # of an energy's spread: below it is kept to rounding and to what implicit equations are solved to
FAR = 0.05  # of the size of the true states, from where an error of the state is not called small
TITLES = {  # of scores, and which have a root taken
    "derivative": "error of the rates",
    "energy": "error of the true energy",
    "state": "error of the state",
    "drift": "own drift, of its energy",
    "invariants": "mass drift",
    "horizon": "half off at time",
}
SQUARED = ("derivative", "energy", "state")


@dataclass(frozen=True)
class Learned:
    """A system, ``data`` over a ``span`` with standard ``noise``, ``test``, and by the name of each model what it did.

    ``predicted`` has no entry for a model whose prediction stopped.
    """

    title: str
    system: System
    data: Trajectories
    test: Trajectories
    span: float
    noise: float
    models: Mapping[str, LearnedSystem] = field(default_factory=dict)
    predicted: Mapping[str, Trajectories] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def arrived(self) -> dict[str, LearnedSystem]:
        """The models whose predictions did not stop."""
        return {name: self.models[name] for name in self.predicted}

    @property
    def long(self) -> float:
        """The time that is predicted."""
        return float(self.test.times[0, -1])

    def score(self, name: str, what: str) -> float:
        """A score, mean squares as their roots."""
        value = getattr(self.scores[name], what)
        return math.sqrt(value) if what in SQUARED else value

    def columns(self) -> list[str]:
        """The scores that some model has."""
        return [what for what in TITLES if any(not math.isnan(self.score(name, what)) for name in self.scores)]

    def best(self, what: str) -> str:
        """The model with the least of a score."""
        return min(self.scores, key=lambda name: self.score(name, what))

    def size(self) -> float:
        """Root mean square of the true states."""
        return float(self.test.states.square().mean().sqrt())


def sentences(pendulum: Learned, waves: Learned) -> list[str]:
    """What this run's numbers say, and no more."""
    return [
        leaders(pendulum),
        *kept(pendulum),
        *lost(pendulum),
        reach(pendulum),
        *on_the_grid(waves),
        *stopped(pendulum),
        *stopped(waves),
        "One seed and one set of data for each system, and a training of seconds: this shows what each score sees, and "
        "is no ranking of methods.",
    ]


def leaders(part: Learned) -> str:
    """Which model is best by what."""
    first: dict[str, list[str]] = {}
    for what in SQUARED:
        first.setdefault(part.best(what), []).append(what.replace("derivative", "rates"))
    told = ", ".join(f"the {name} has the smallest error of {' and '.join(them)}" for name, them in first.items())
    models = ", ".join(part.scores)
    return (
        f"{len(part.scores)} models of a pendulum ({models}) were learned from {len(part.data)} motions over "
        f"{part.span:g} units of time, from states alone, with noise of {part.noise:g}, and predicted {len(part.test)} "
        f"unseen ones over {part.long:g}. "
        + (f"Here {told}." if len(first) == 1 else f"Here {told}: no one of these numbers stands for the others.")
    )


def kept(part: Learned) -> list[str]:
    """Own energies, and what their being kept is worth."""
    found = []
    for name in part.predicted:
        drift = part.score(name, "drift")
        if math.isnan(drift):
            continue
        off, state = part.score(name, "energy"), part.score(name, "state")
        exactly = "to rounding, " if drift < ROUNDING else ""
        found.append(
            f"The {name} keeps the energy it has learned {exactly}to {number(drift)} of its spread, and the true "
            f"energy along its prediction is off by {number(off)} (root mean square)"
            + (f": the learned energy is not the true one. Exact energy is not an accurate state: that is off by "
               f"{number(state)}, {percent(state / part.size())} of its size."
               if drift < ROUNDING and state > FAR * part.size() else ".")
        )  # fmt: skip
    return found


def lost(part: Learned) -> list[str]:
    """What becomes of the true energy where a model has none."""
    told = []
    for name, motion in part.predicted.items():
        if math.isnan(part.score(name, "drift")):
            energies = part.system.energy(motion.states)
            change = (energies[:, -1] - energies[:, 0]).square().mean().sqrt()
            told.append(f"{number(float(change))} with the {name}")
    start = float(part.system.energy(part.test.states[:, 0]).mean())
    if not told:
        return []
    return [
        f"Models without an energy change the true one, of {number(start)} at the start, by "
        f"{' and by '.join(told)} after {part.long:g} units of time (root mean square over the motions)."
    ]


def reach(part: Learned) -> str:
    times = {name: part.score(name, "horizon") for name in part.scores}
    low, high = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    return (
        f"States stay within half of their size for {number(times[low])} ({low}) to {number(times[high])} ({high}) "
        f"units of time, means over the motions, of {part.long:g} that were looked at."
    )


def on_the_grid(part: Learned) -> list[str]:
    """A learned energy beside learned rates."""
    energy, plain = part.scores
    if energy not in part.predicted:
        return []
    one, other = (part.score(name, "state") for name in (energy, plain))
    told = (
        f"On KdV the {energy}, which is told the operator d/dx and learns what it acts on from "
        f"{len(part.data)} solutions over {part.span:g} units of time, predicts {part.long:g} of {len(part.test)} "
        f"unseen ones with an error of {percent(one / part.size())} of its size; it keeps its own energy to "
        f"{number(part.score(energy, 'drift'))} of its spread and mass to {number(part.score(energy, 'invariants'))}."
    )
    if plain not in part.predicted:
        return [told]
    return [
        f"{told} The {plain}, learned from the same without that knowledge, is off by "
        f"{percent(other / part.size())}, and its mass drifts by {number(part.score(plain, 'invariants'))}."
    ]


def stopped(part: Learned) -> list[str]:
    """Predictions that left the finite numbers."""
    return [
        f"{part.title}: the prediction of the {name} stopped before its end, so that its errors count as infinite and "
        "it is in no figure."
        for name in part.scores
        if name not in part.predicted
    ]
