"""Seeded observations of the systems: starts drawn as the published studies draw them, motion, noise, times.

Sources: Greydanus, Dzamba & Yosinski, NeurIPS 2019 (springs, pendulums, bodies); Matsubara, Ishikawa & Yaguchi,
NeurIPS 2020 (long trajectories, KdV, Cahn-Hilliard).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eom.dynamics.energy import gradient
from eom.dynamics.integrate import course
from eom.errors import DataError, SettingError
from eom.physics import lattices, systems
from eom.physics.limits import is_dense, is_number, require_finite, require_positive, require_seed, require_whole, said
from eom.physics.rules import followed
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories, clock, tensor_of

Starts = Callable[[int, torch.Generator], Tensor]  # (count, generator) -> [count, n]
WIDE = torch.float64


@dataclass(frozen=True)
class DataSet:
    """A system, how its ``starts`` are drawn, at which ``times`` [s] it is observed, with which standard ``noise``.

    Raises:
        DataError: times that are none of ``Trajectories``, or not those of all. SettingError: no system.
    """

    system: System
    starts: Starts
    times: Tensor
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.system, System):
            raise SettingError(f"the system is a {type(self.system).__name__}, expected one such as pendulum()")
        times = tensor_of("times", self.times)
        if times.ndim != 1:
            raise DataError(f"times have shape {list(times.shape)}, expected [s], which all trajectories share")
        object.__setattr__(self, "times", clock(times, torch.zeros(1, 1))[0])

    def __repr__(self) -> str:
        span = f"times {float(self.times[0]):.4g} to {float(self.times[-1]):.4g}"
        return f"DataSet({self.system.name}, {len(self.times)} points, {span}, noise {self.noise})"

    def draw(self, count: int, seed: int, *, irregular: bool = False, by_scheme: bool = False) -> Trajectories:
        """``count`` observed trajectories, float64, with noise on states and rates free of it.

        Args:
            irregular: each trajectory at times of its own, sorted uniform draws. by_scheme: by the system's own
                stepper, one step from a time to the next, rather than by an accurate solver.

        Raises:
            SettingError: a count, a noise or a seed that is none. DataError: starts of another kind or shape.
        """
        if not (is_number(self.noise) and self.noise >= 0):
            raise SettingError(f"noise is {self.noise!r}, expected 0 or more")
        u, random = self._begun(count, seed)
        times = self.times.expand(count, -1)
        if irregular:
            inner = torch.rand(count, len(self.times) - 2, generator=random, dtype=WIDE).sort(1).values
            first, last = times[:, :1], times[:, -1:]
            times = torch.cat([first, first + inner * (last - first), last], 1)
        if by_scheme:
            with torch.no_grad():
                states = torch.stack([u, *followed(self.system.field, self.system.stepper, u, times)], 1)
        else:
            states = motions(self.system, u, times)
        slopes = rates(self.system, states)
        noisy = states + self.noise * torch.randn(states.shape, generator=random, dtype=WIDE)
        return Trajectories(times, noisy, self.system.entries, slopes)

    def exact(self, count: int, seed: int, times: Tensor | None = None) -> Trajectories:
        """Trajectories from the starts of ``draw``, without noise, at ``times`` [s] or [b, s], its own by default.

        Raises:
            SettingError: a count or a seed that is none. DataError: times that are none of ``Trajectories``; starts
            of another kind or shape.
        """
        u, _ = self._begun(count, seed)
        at = clock(self.times if times is None else times, u)
        states = motions(self.system, u, at)
        return Trajectories(at, states, self.system.entries, rates(self.system, states))

    def _begun(self, count: int, seed: int) -> tuple[Tensor, torch.Generator]:
        """[count, n] starts, and the generator that has drawn them."""
        require_whole(count=count)
        require_seed(seed)
        random = torch.Generator().manual_seed(int(seed))
        if not callable(self.starts):
            raise SettingError(f"starts are {said(self.starts)}, expected a function of (count, generator)")
        u = self.starts(count, random)
        if not (is_dense(u) and u.is_floating_point() and u.shape == (count, self.system.size)):
            raise DataError(
                f"starts of {count} are {said(u)}, expected a tensor of floats {[count, self.system.size]}, as by "
                "torch.rand(count, n, generator=generator)"
            )
        require_finite("starts", u)
        return u.detach().to(WIDE), random


def motion(system: System, u: Tensor, times: Tensor) -> Tensor:
    """[b, s, n] states of the flow from ``u`` at times[0], by the solution or an accurate solver."""
    after = (times - times[0]).tolist()
    if system.solution is not None:
        return torch.stack([system.solution(t, u) for t in after], 1)
    share = len(u) ** -0.5  # the solver bounds the mean square over members, and this the error of each
    return course(system.field, u, after, 1e-9 * share, 1e-12 * share).transpose(0, 1)


def motions(system: System, u: Tensor, times: Tensor) -> Tensor:
    """[b, s, n] the same at ``times`` [b, s]."""
    if bool((times == times[0]).all()):
        return motion(system, u, times[0])
    return torch.cat([motion(system, a[None], t) for a, t in zip(u, times, strict=True)])


def rates(system: System, states: Tensor) -> Tensor:
    """[..., n] u' of the states."""
    with torch.no_grad():
        slopes = gradient(system.energy, states)
        return system.structure(slopes.view(-1, slopes.shape[-1])).view_as(slopes)  # it may count axes from the first


def springs(span: float = 3.0, points: int = 30, noise: float = 0.1) -> DataSet:
    """Radius U(.1, 1); the long version of the literature is span 20, points 100."""
    return DataSet(systems.spring(), _rings(0.1, 1.0), _clock(span, points), noise)


def pendulums(span: float = 3.0, points: int = 45, noise: float = 0.1, friction: float = 0.0) -> DataSet:
    """Radius 1.3 + U(0, 1)."""
    return DataSet(systems.pendulum(friction), _rings(1.3, 2.3), _clock(span, points), noise)


def damped_springs(span: float = 3.0, points: int = 30, noise: float = 0.1, friction: float = 0.2) -> DataSet:
    return DataSet(systems.spring(friction), _rings(0.1, 1.0), _clock(span, points), noise)


def double_pendulums(span: float = 3.0, points: int = 60, noise: float = 0.0) -> DataSet:
    """Angles U(-.5, .5) from rest: swinging, nearly regular."""

    def starts(count: int, random: torch.Generator) -> Tensor:
        angles = torch.rand(count, 2, generator=random, dtype=WIDE) - 0.5
        return torch.cat([angles, torch.zeros_like(angles)], 1)

    return DataSet(systems.double_pendulum(), starts, _clock(span, points), noise)


def two_bodies(span: float = 20.0, points: int = 50) -> DataSet:
    """Opposite each other at radius U(.5, 1.5), circular speeds with 5 % noise."""
    return DataSet(systems.bodies(2), _orbits(2, 0.05), _clock(span, points))


def three_bodies(span: float = 5.0, points: int = 20) -> DataSet:
    """On an equilateral triangle, circular speeds with 20 % noise."""
    return DataSet(systems.bodies(3), _orbits(3, 0.2), _clock(span, points))


def chains(masses: int = 20, span: float = 3.0, points: int = 30, noise: float = 0.0) -> DataSet:
    """Stiffness and masses U(.5, 1.5), drawn once; displacements N(0, .5), from rest."""
    require_whole(masses=masses)
    random = torch.Generator().manual_seed(0)
    stiffness, weights = (0.5 + torch.rand(n, generator=random, dtype=WIDE) for n in (masses + 1, masses))

    def starts(count: int, random: torch.Generator) -> Tensor:
        q = 0.5 * torch.randn(count, masses, generator=random, dtype=WIDE)
        return torch.cat([q, torch.zeros_like(q)], 1)

    return DataSet(systems.spring_chain(stiffness, weights), starts, _clock(span, points), noise)


def stand_in_pendulum(span: float = 30.0, points: int = 600, noise: float = 0.01) -> DataSet:
    """Not a real pendulum: a simulated stand-in with friction and measurement noise, u = (angle, p), one trajectory."""

    def starts(count: int, random: torch.Generator) -> Tensor:
        angle = 0.8 + 0.2 * torch.rand(count, 1, generator=random, dtype=WIDE)
        return torch.cat([angle, torch.zeros_like(angle)], 1)

    return DataSet(systems.pendulum(0.03), starts, _clock(span, points), noise)


def solitons(points: int = 50, width: float = 10.0, dt: float = 1e-3, steps: int = 500) -> DataSet:
    """KdV: two solitons of k ~ U(.5, 2) anywhere on the circle."""
    x = torch.arange(points, dtype=WIDE) * (width / points)

    def starts(count: int, random: torch.Generator) -> Tensor:
        k = 0.5 + 1.5 * torch.rand(count, 2, generator=random, dtype=WIDE)
        place = width * torch.rand(count, 2, generator=random, dtype=WIDE)
        both = [
            sum(lattices.soliton(x, float(a), float(b), width) for a, b in zip(ks, at, strict=True))
            for ks, at in zip(k, place, strict=True)
        ]
        return torch.stack(both)  # type: ignore[arg-type] - sums of tensors, not 0

    return DataSet(lattices.korteweg_de_vries(points, width), starts, _grid_clock(dt, steps))


def separations(points: int = 50, dt: float = 1e-4, steps: int = 500, dimensions: int = 1) -> DataSet:
    """Cahn-Hilliard of width 1; at the start five Fourier modes with N(0, .1) coefficients, a mean of U(-.1, .1)."""
    x = torch.arange(points, dtype=WIDE) / points
    waves = torch.stack([f(2 * math.pi * k * x) for k in range(1, 6) for f in (torch.sin, torch.cos)])

    def starts(count: int, random: torch.Generator) -> Tensor:
        mean = 0.2 * torch.rand(count, 1, generator=random, dtype=WIDE) - 0.1
        modes = len(waves) ** dimensions
        c = torch.randn(count, modes, generator=random, dtype=WIDE) * 0.1 * math.sqrt(len(waves) / modes)
        basis = waves if dimensions == 1 else torch.einsum("ix,jy->ijxy", waves, waves).flatten(2).flatten(0, 1)
        return mean + c @ basis

    system = lattices.cahn_hilliard(points, dimensions=dimensions)
    return DataSet(system, starts, _grid_clock(dt, steps))


def _rings(low: float, high: float) -> Starts:
    """A radius between the two, any angle."""

    def starts(count: int, random: torch.Generator) -> Tensor:
        r = low + (high - low) * torch.rand(count, generator=random, dtype=WIDE)
        angle = 2 * math.pi * torch.rand(count, generator=random, dtype=WIDE)
        return torch.stack([r * angle.cos(), r * angle.sin()], 1)

    return starts


def _orbits(bodies: int, noise: float) -> Starts:
    def starts(count: int, random: torch.Generator) -> Tensor:
        r = 0.5 + torch.rand(count, 1, generator=random, dtype=WIDE)
        turn = 2 * math.pi * torch.rand(count, 1, generator=random, dtype=WIDE)
        angle = turn + torch.arange(bodies, dtype=WIDE) * (2 * math.pi / bodies)
        pull = sum(1 / (4 * math.sin(math.pi * k / bodies)) for k in range(1, bodies))  # on a circle of radius 1
        speed = (pull / r).sqrt() * (1 + noise * torch.randn(count, bodies, generator=random, dtype=WIDE))
        q = torch.stack([r * angle.cos(), r * angle.sin()], -1)
        p = torch.stack([-speed * angle.sin(), speed * angle.cos()], -1)
        return torch.cat([q.flatten(1), p.flatten(1)], 1)

    return starts


def _clock(span: float, points: int) -> Tensor:
    require_positive(span=span)
    require_whole(points=points)
    return torch.linspace(0, span, points, dtype=WIDE)


def _grid_clock(dt: float, steps: int) -> Tensor:
    require_positive(dt=dt)
    require_whole(steps=steps)
    return torch.arange(steps + 1, dtype=WIDE) * dt
