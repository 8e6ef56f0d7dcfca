"""Physical systems, the steppers that keep their energy, and laws of motion learned from data.

Names in the order in which data flows: an energy and a structure make a system, a discrete gradient a step that keeps
its energy; observed trajectories, a field with parameters and a rule to learn it by make a model, which is fitted,
predicts, is scored, and read. Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eom.calculus.discrete import discrete_gradient
    from eom.dynamics.energy import DiscreteGradient, EnergySystem, MeanValue, gonzalez, itoh_abe
    from eom.dynamics.energy_law import energy_law
    from eom.dynamics.runge_kutta import RK4
    from eom.dynamics.symplectic import Composed, Gauss, ImplicitMidpoint, Leapfrog, Separable, suzuki, yoshida
    from eom.physics.conserved import conserved_quantity
    from eom.physics.data_sets import DataSet
    from eom.physics.fitting import Fitted, fit
    from eom.physics.kernels import read_kernel
    from eom.physics.latents import LatentField, LatentRule, LatentStepper, latent_model, principal_coding
    from eom.physics.lattices import cahn_hilliard, korteweg_de_vries, soliton, wave
    from eom.physics.laws import compare_energies
    from eom.physics.learned_fields import (
        EnergyField,
        GridEnergy,
        LagrangianField,
        PlainField,
        SecondOrderField,
        SeparableField,
        dense,
    )
    from eom.physics.least_squares import solve_linear
    from eom.physics.measured_files import read_csv, read_frames
    from eom.physics.metrics import Scores, evaluate
    from eom.physics.models import (
        LearnedSystem,
        damped_energy_model,
        energy_model,
        hamiltonian_network,
        lagrangian_network,
        mean_square,
        neural_ode,
        second_order_ode,
        symplectic_network,
    )
    from eom.physics.modified import Split, learned_energy, mixing, modified_energy
    from eom.physics.pixels import Film, film_angle, film_energy, film_of, frame_pairs, pendulum_film, render
    from eom.physics.rules import (
        Adaptive,
        ErrorsInVariables,
        FromFittedStarts,
        Shooting,
        match_discrete_gradient,
        match_slopes,
        midpoint,
    )
    from eom.physics.structures import (
        DissipativeKernel,
        DissipativeMatrix,
        FreeKernel,
        FreeMatrix,
        Friction,
        SkewKernel,
    )
    from eom.physics.systems import System, bodies, double_pendulum, pendulum, spring, spring_chain
    from eom.physics.trajectories import Trajectories, Window

_NAMES = {
    "eom.physics.systems": "System spring pendulum double_pendulum bodies spring_chain",
    "eom.physics.lattices": "korteweg_de_vries soliton cahn_hilliard wave",
    "eom.calculus.discrete": "discrete_gradient",
    "eom.dynamics.energy": "EnergySystem DiscreteGradient gonzalez MeanValue itoh_abe",
    "eom.dynamics.energy_law": "energy_law",
    "eom.dynamics.runge_kutta": "RK4",
    "eom.dynamics.symplectic": "Separable Leapfrog Composed yoshida suzuki Gauss ImplicitMidpoint",
    "eom.physics.trajectories": "Trajectories Window",
    "eom.physics.measured_files": "read_csv read_frames",
    "eom.physics.data_sets": "DataSet",
    "eom.physics.structures": "Friction FreeMatrix DissipativeMatrix FreeKernel DissipativeKernel SkewKernel",
    "eom.physics.learned_fields": (
        "dense GridEnergy PlainField SecondOrderField EnergyField SeparableField LagrangianField"
    ),
    "eom.physics.rules": (
        "match_slopes midpoint match_discrete_gradient Shooting FromFittedStarts ErrorsInVariables Adaptive"
    ),
    "eom.physics.models": (
        "LearnedSystem mean_square neural_ode second_order_ode hamiltonian_network symplectic_network energy_model "
        "damped_energy_model lagrangian_network"
    ),
    "eom.physics.pixels": "Film pendulum_film render frame_pairs film_of film_angle film_energy",
    "eom.physics.latents": "latent_model principal_coding LatentField LatentRule LatentStepper",
    "eom.physics.fitting": "fit Fitted",
    "eom.physics.least_squares": "solve_linear",
    "eom.physics.metrics": "evaluate Scores",
    "eom.physics.modified": "Split modified_energy learned_energy mixing",
    "eom.physics.kernels": "read_kernel",
    "eom.physics.laws": "compare_energies",
    "eom.physics.conserved": "conserved_quantity",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - in the order in which data flows
    "System", "spring", "pendulum", "double_pendulum", "bodies", "spring_chain", "korteweg_de_vries", "soliton",
    "cahn_hilliard", "wave", "discrete_gradient", "EnergySystem", "DiscreteGradient", "gonzalez", "MeanValue",
    "itoh_abe", "energy_law", "RK4", "Separable", "Leapfrog", "Composed", "yoshida", "suzuki", "Gauss",
    "ImplicitMidpoint", "Trajectories", "Window", "read_csv", "read_frames", "DataSet", "Friction",
    "FreeMatrix", "DissipativeMatrix", "FreeKernel", "DissipativeKernel", "SkewKernel", "dense", "GridEnergy",
    "PlainField", "SecondOrderField", "EnergyField", "SeparableField", "LagrangianField", "match_slopes",
    "midpoint", "match_discrete_gradient", "Shooting", "FromFittedStarts", "ErrorsInVariables", "Adaptive",
    "LearnedSystem", "mean_square", "neural_ode", "second_order_ode", "hamiltonian_network",
    "symplectic_network", "energy_model", "damped_energy_model", "lagrangian_network", "Film", "pendulum_film",
    "render", "frame_pairs", "film_of", "film_angle", "film_energy", "latent_model", "principal_coding",
    "LatentField", "LatentRule", "LatentStepper", "fit", "solve_linear", "Fitted", "evaluate", "Scores",
    "Split", "modified_energy", "learned_energy", "mixing", "compare_energies", "read_kernel",
    "conserved_quantity",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "data_sets":
        return import_module("eom.physics.data_sets")
    raise AttributeError(f"module 'eom.physics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
