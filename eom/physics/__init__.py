"""Physical systems and the steppers that keep their energy.

Names in the order in which data flows: an energy and a structure make a system, a discrete gradient a step that keeps
its energy. Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eom.calculus.discrete import discrete_gradient
    from eom.dynamics.energy import DiscreteGradient, EnergySystem, MeanValue, gonzalez, itoh_abe
    from eom.dynamics.symplectic import Composed, Gauss, ImplicitMidpoint, Leapfrog, Separable, suzuki, yoshida
    from eom.physics.conserved import conserved_quantity
    from eom.physics.lattices import cahn_hilliard, korteweg_de_vries, soliton, wave
    from eom.physics.laws import compare_energies, read_kernel
    from eom.physics.modified import Split, learned_energy, mixing, modified_energy
    from eom.physics.systems import System, bodies, double_pendulum, pendulum, spring, spring_chain

_NAMES = {
    "eom.physics.systems": "System spring pendulum double_pendulum bodies spring_chain",
    "eom.physics.lattices": "korteweg_de_vries soliton cahn_hilliard wave",
    "eom.physics.modified": "Split modified_energy learned_energy mixing",
    "eom.physics.laws": "compare_energies read_kernel",
    "eom.physics.conserved": "conserved_quantity",
    "eom.calculus.discrete": "discrete_gradient",
    "eom.dynamics.energy": "EnergySystem DiscreteGradient gonzalez MeanValue itoh_abe",
    "eom.dynamics.symplectic": "Separable Leapfrog Composed yoshida suzuki Gauss ImplicitMidpoint",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - in the order in which data flows
    "System", "spring", "pendulum", "double_pendulum", "bodies", "spring_chain", "korteweg_de_vries", "soliton",
    "cahn_hilliard", "wave", "discrete_gradient", "EnergySystem", "DiscreteGradient", "gonzalez", "MeanValue",
    "itoh_abe", "Separable", "Leapfrog", "Composed", "yoshida", "suzuki", "Gauss", "ImplicitMidpoint",
    "Split", "modified_energy", "learned_energy", "mixing", "compare_energies", "read_kernel", "conserved_quantity",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'eom.physics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
