"""Mechanical systems u' = G grad H(u), by their energies, with their invariants and, where there is one, the solution.

States are [..., n]: positions first, then momenta. All of them are batched and differentiable.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eom.dynamics.energy import DiscreteGradient, EnergySystem, numbers
from eom.dynamics.energy_law import energy_law
from eom.dynamics.field import State, require_function
from eom.dynamics.stepper import Stepper, march, require_stepper
from eom.errors import SettingError, StepError
from eom.physics.limits import (
    is_dense,
    is_number,
    require_energy,
    require_finite,
    require_grid,
    require_names,
    require_periodic,
    require_positive,
    require_whole,
    said,
)

Number = Callable[[State], Tensor]  # [b, n] -> [b]


@dataclass(frozen=True)
class System:
    """A system of ``size`` entries, named with their units in ``entries``.

    ``conserved`` are numbers [b, n] -> [b] that its flow is said to keep, besides the energy where ``dissipates`` is
    False: ``evaluate`` measures how far predictions change them. ``solution`` (t, u_0) -> u(t) is exact. ``stepper``
    keeps the energy, or lets it fall as the flow does. ``grid`` is that of an ``EnergySystem``.

    Raises:
        SettingError: no entries, a grid that they are not on, no stepper, what is conserved without names, a structure
        that is not skew, or not negative semidefinite, as ``dissipates`` says.
    """

    name: str
    energy: Number
    structure: Callable[[State], State]
    entries: tuple[str, ...]
    conserved: Mapping[str, Number] = field(default_factory=dict)
    dissipates: bool = False
    solution: Callable[[float, State], State] | None = None
    stepper: Stepper = field(default_factory=DiscreteGradient)
    grid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_names(self.entries)
        object.__setattr__(self, "entries", tuple(self.entries))
        require_function(energy=self.energy, structure=self.structure)
        if not (isinstance(self.conserved, Mapping) and all(isinstance(name, str) for name in self.conserved)):
            raise SettingError(f"conserved is {self.conserved!r}, expected functions by name: {{'momentum': function}}")
        require_function(**self.conserved)
        require_grid(self.grid, self.size)
        object.__setattr__(self, "grid", tuple(self.grid))
        require_stepper(self.stepper)
        law, promised = energy_law(self.structure, self.size), "dissipates" if self.dissipates else "conserves"
        if law != promised:
            is_so = {"conserves": "skew", "dissipates": "negative semidefinite"}
            came = "neither skew nor negative semidefinite" if law is None else is_so[law]
            raise SettingError(
                f"the structure G of {self.name} is {came}, and a system that {promised} energy needs one that is "
                f"{is_so[promised]}; or set dissipates={law == 'dissipates'}"
                if law
                else f"the structure G of {self.name} is {came}: its energy may rise and fall. Give an EnergySystem, "
                "which promises no law"
            )

    @property
    def size(self) -> int:
        return len(self.entries)

    @property
    def field(self) -> EnergySystem:
        return EnergySystem(self.energy, self.structure, self.grid)

    def simulate(self, u: State, *, h: float, steps: int, substeps: int = 1) -> Tensor:
        """[steps + 1, ..., n] states from ``u`` [..., n] at times 0, h, 2 h, ..., each in ``substeps`` steps.

        Raises:
            SettingError: no state, one of another size, a step that is no number. DataError: a state that is not
            finite, or not periodic as the grid is; an energy that sees the batch, has no gradient, or is
            drawn anew. StepError: a step too large for the implicit equation, with its time and residuals, or a motion
            that leaves the finite numbers; it names the step.
        """
        if not is_dense(u) or not (u.is_floating_point() and u.ndim and u.numel()):
            raise SettingError(f"u is {said(u)}, expected a dense tensor of floats [..., {self.size}]")
        require_whole(steps=steps, substeps=substeps)
        if getattr(h, "requires_grad", False) or not (is_number(h) and h):
            raise SettingError(f"h is {h!r}, expected a finite step other than 0, that has no gradient")
        if u.shape[-1] != self.size:
            raise SettingError(f"{self.name} has the entries {', '.join(self.entries)}, and u ends in {u.shape[-1]}")
        require_finite("u", u)
        require_periodic(u, self.grid)
        kept: list[State] = []
        shape, u = u.shape, u.reshape(-1, self.size)  # steppers take rows
        require_energy(self.energy, u[[0, -1]])
        rate = self.structure(torch.zeros_like(u))
        found = numbers(self.energy, u)
        live = torch.is_grad_enabled() and (u.requires_grad or rate.requires_grad or found.requires_grad)
        try:
            with torch.set_grad_enabled(live):  # the field's own derivatives make no graph that somebody asked for
                for k, (_, y) in enumerate(march(self.field, self.stepper, u, h=h / substeps, steps=steps * substeps)):
                    if not bool(y.isfinite().all()):
                        raise StepError("the motion has left the finite numbers: take a smaller step")
                    kept += [y] if k % substeps == 0 else []
        except StepError as failure:
            raise StepError(f"in step {len(kept)} of {steps}, {failure}") from failure
        return torch.stack(kept).view(-1, *shape)


def rotate(g: State) -> State:
    """S g, S = [[0, 1], [-1, 0]] in blocks: of a gradient, Hamilton's equations."""
    q, p = g.chunk(2, -1)
    return torch.cat([p, -q], -1)


def rotate_with_friction(strength: float | Tensor) -> Callable[[State], State]:
    """g -> (S - diag(0, r)) g: momenta lose r times their velocity."""

    def structure(g: State) -> State:
        q, p = g.chunk(2, -1)
        return torch.cat([p, -q - strength * p], -1)

    return structure


def spring(friction: float = 0.0) -> System:
    """H = q^2 + p^2, of period pi; the mass and spring of Hamiltonian neural networks."""

    def solution(t: float, u: State) -> State:
        q, p = u.unbind(-1)
        root = math.sqrt(4 - friction**2)  # q'' + 2 r q' + 4 q = 0
        decay, c, s = math.exp(-friction * t), math.cos(root * t), math.sin(root * t)
        v = 2 * p
        at = decay * (q * c + (v + friction * q) / root * s)
        speed = decay * (v * c - (4 * q + friction * v) / root * s)
        return torch.stack([at, speed / 2], -1)

    return System(
        "damped spring" if friction else "spring", lambda u: u.square().sum(-1), _structure(friction), ("q", "p"),
        dissipates=friction > 0, solution=solution,
    )  # fmt: skip


def pendulum(friction: float = 0.0) -> System:
    """H = 3 (1 - cos q) + p^2, of Hamiltonian neural networks."""
    return System(
        "damped pendulum" if friction else "pendulum", lambda u: 3 * (1 - torch.cos(u[..., 0])) + u[..., 1] ** 2,
        _structure(friction), ("angle / rad", "p"), dissipates=friction > 0,
    )  # fmt: skip


def _structure(friction: float) -> Callable[[State], State]:
    if not (is_number(friction) and 0 <= friction < 2):
        raise SettingError(f"friction is {friction!r}, expected 0 or more, and below 2, where motion no longer swings")
    return rotate_with_friction(friction) if friction else rotate


def double_pendulum(gravity: float = 9.8) -> System:
    """Two equal masses on two equal rods, m = l = 1: chaotic at large energies."""
    require_positive(gravity=gravity)

    def energy(u: State) -> Tensor:
        a, b, p, s = u.unbind(-1)
        kinetic = (p**2 + 2 * s**2 - 2 * p * s * torch.cos(a - b)) / (2 * (1 + torch.sin(a - b) ** 2))
        return kinetic + gravity * (3 - 2 * torch.cos(a) - torch.cos(b))

    return System("double pendulum", energy, rotate, ("angle 1 / rad", "angle 2 / rad", "p1", "p2"))


def bodies(count: int, gravity: float = 1.0) -> System:
    """``count`` unit masses in the plane that attract each other, H = sum |p|^2 / 2 - gravity sum 1 / distance."""
    if type(count) is not int or count < 2:
        raise SettingError(f"count is {count!r}, expected two bodies or more")
    require_positive(gravity=gravity)
    one, other = torch.triu_indices(count, count, 1)

    def parts(u: State) -> tuple[Tensor, Tensor]:  # [..., count, 2]
        q, p = u.chunk(2, -1)
        return q.unflatten(-1, (count, 2)), p.unflatten(-1, (count, 2))

    def energy(u: State) -> Tensor:
        q, p = parts(u)
        apart = q[..., one, :] - q[..., other, :]
        return p.square().sum((-1, -2)) / 2 - gravity * torch.rsqrt(apart.square().sum(-1)).sum(-1)

    def turning(u: State) -> Tensor:
        q, p = parts(u)
        return (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(-1)

    names = [f"{axis}{i + 1}" for i in range(count) for axis in "xy"]
    conserved: dict[str, Number] = {
        "momentum in x": lambda u: parts(u)[1][..., 0].sum(-1),
        "momentum in y": lambda u: parts(u)[1][..., 1].sum(-1),
        "angular momentum": turning,
    }
    return System(f"{count} bodies", energy, rotate, (*names, *(f"p{name}" for name in names)), conserved)


def spring_chain(stiffness: Tensor, masses: Tensor) -> System:
    """Masses [n] on a line between walls, with n + 1 springs of ``stiffness`` [n + 1]; displacements and momenta."""
    if not all(is_dense(x) and x.ndim == 1 for x in (stiffness, masses)):
        raise SettingError(
            f"stiffness is {said(stiffness)} and masses {said(masses)}, expected tensors [n + 1] and [n]"
        )
    n = len(masses)
    if stiffness.shape != (n + 1,) or not all(bool((x.isfinite() & (x > 0)).all()) for x in (stiffness, masses)):
        raise SettingError(f"{len(stiffness)} springs and {n} masses, expected n + 1 and n positive, finite numbers")

    def energy(u: State) -> Tensor:
        q, p = u.chunk(2, -1)
        wall = torch.zeros_like(q[..., :1])
        stretched = torch.cat([q, wall], -1) - torch.cat([wall, q], -1)
        return (p**2 / masses).sum(-1) / 2 + (stiffness * stretched**2).sum(-1) / 2

    springs, root = stiffness.double(), masses.double().sqrt()
    between = torch.diag(springs[:-1] + springs[1:]) - torch.diag(springs[1:-1], 1) - torch.diag(springs[1:-1], -1)
    squares, modes = torch.linalg.eigh(between / torch.outer(root, root))
    rates = squares.sqrt()

    def solution(t: float, u: State) -> State:
        q, p = u.double().chunk(2, -1)
        x, v = (q * root) @ modes, (p / root) @ modes
        c, s = torch.cos(rates * t), torch.sin(rates * t)
        after = [(x * c + v * s / rates) @ modes.T / root, (v * c - x * s * rates) @ modes.T * root]
        return torch.cat(after, -1).to(u)

    names = [f"q{i + 1}" for i in range(n)]
    return System(f"chain of {n} masses", energy, rotate, (*names, *(f"p{i + 1}" for i in range(n))), solution=solution)
