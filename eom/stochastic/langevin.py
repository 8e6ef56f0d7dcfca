"""Langevin dynamics: sampling exp(-U / T) by steppers whose bias is known.

Overdamped, dX = f dt + sqrt(2 T) dW with f = -grad U, is an ``Sde``: ``EulerMaruyama`` on it is the unadjusted Langevin
algorithm (SGLD where f comes from mini-batches), ``StochasticHeun`` takes two gradients, ``LeimkuhlerMatthews`` one.
Underdamped, dq = p dt, dp = (f(q) - gamma p) dt + sqrt(2 gamma T) dW, is marched by splittings of it.

Where a position is read belongs to a scheme: all of these are read after a whole step.

Sources: Leimkuhler & Matthews, Appl. Math. Res. eXpress 2013(1) and Molecular Dynamics (2015); Roberts & Tweedie,
Bernoulli 2(4), 1996 (MALA); Chen, Fox & Guestrin, ICML 2014 (SGHMC).
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eom.dynamics.brownian import Brownian, Place
from eom.dynamics.field import State, VectorField
from eom.dynamics.noise import Additive
from eom.dynamics.sde import Path, Sde, stochastic
from eom.errors import SettingError


def overdamped(force: VectorField, temperature: float | None = None) -> Sde:
    """dX = f dt + sqrt(2 T) dW, whose stationary law is exp(-U / T) for f = -grad U; T is the density's, or 1.

    Raises:
        SettingError: a temperature that is not positive, or not finite.
    """
    return Sde(force, Additive(math.sqrt(2 * _temperature(force, temperature))))


@dataclass(frozen=True)
class LeimkuhlerMatthews:
    """y <- y + h f(y) + sigma (dW_k + dW_{k+1}) / 2: one gradient, and a bias of h^2 in place of Euler-Maruyama's h.

    For additive noise; exact for a Gaussian. A position between two steps holds half of the next noise.
    """

    path: Path = field(default_factory=Brownian)

    def init(self, y: State) -> Any:
        return None, Place()

    def step(self, field: Sde, t: float, h: float, y: State, carry: Any) -> tuple[State, Any]:
        before, place = carry
        sde = stochastic(field, t, y, place)
        if not isinstance(sde.noise, Additive):
            raise SettingError(f"LeimkuhlerMatthews is for additive noise, and was given {type(sde.noise).__name__}")
        m = sde.noise.channels(y)
        if before is None:
            before, place = self.path.next(place, h, y, m)
        after, place = self.path.next(place, h, y, m)
        moved = sde.noise(t, y, (before.w + after.w) / 2)
        return y + h * sde.drift(t, y) + moved, (after, place)


@dataclass(frozen=True)
class Underdamped:
    """dq = p dt, dp = (f(q) - friction p) dt + sqrt(2 friction T) dW, for states (q, p) [..., 2 n] and unit masses.

    T is the density's, or 1.
    """

    force: VectorField
    friction: float = 1.0
    temperature: float | None = None

    @property
    def bath_temperature(self) -> float:
        """T, of the bath that friction and noise stand for."""
        return _temperature(self.force, self.temperature)

    def __post_init__(self) -> None:
        _positive("friction", self.friction)

        _temperature(self.force, self.temperature)


@dataclass(frozen=True)
class Splitting:
    """A product of exact flows, named by its letters from first to last, each over h / how often it occurs:

        B: p <- p + h f(q)    A: q <- q + h p    O: p <- e^{-gamma h} p + sqrt(T (1 - e^{-2 gamma h})) N(0, 1)

    BAOAB samples positions of a Gaussian exactly; elsewhere its bias is of h^2, as is that of OBABO, which is larger. A
    force at unmoved positions is not computed again, so that both take one for a step.
    """

    scheme: str
    path: Path = field(default_factory=Brownian)

    def __post_init__(self) -> None:
        if not self.scheme or set(self.scheme) - set("ABO"):
            raise SettingError(f"scheme is {self.scheme!r}, expected letters A, B and O, such as BAOAB")

    def init(self, y: State) -> Any:
        return None, Place()

    def step(self, field: Underdamped, t: float, h: float, y: State, carry: Any) -> tuple[State, Any]:
        (known, place), count = carry, Counter(self.scheme)
        q, p = phases(field, y)
        if noisy := count["O"]:
            piece, place = self.path.next(place, 1.0, q, noisy * q.shape[-1])
            normal = list(piece.w.split(q.shape[-1], -1))
            keep = math.exp(-field.friction * h / noisy)
            kick = math.sqrt(field.bath_temperature * (1 - keep**2))
        for letter in self.scheme:
            part = h / count[letter]
            if letter == "A":
                q, known = q + part * p, None
            elif letter == "B":
                known = field.force(t, q) if known is None else known
                p = p + part * known
            else:
                p = keep * p + kick * normal.pop()
        return torch.cat([q, p], -1), (known, place)


def BAOAB(path: Path | None = None) -> Splitting:
    """Half a kick, half a drift, friction and noise, half a drift, half a kick."""
    return Splitting("BAOAB", path or Brownian())


def OBABO(path: Path | None = None) -> Splitting:
    """Half of friction and noise, a leapfrog step, the other half."""
    return Splitting("OBABO", path or Brownian())


@dataclass(frozen=True)
class SGHMC:
    """p <- (1 - gamma h) p + h f(q) + sqrt(2 gamma T h) N(0, 1);  q <- q + h p: of order 1, as it is mostly used."""

    path: Path = field(default_factory=Brownian)

    def init(self, y: State) -> Place:
        return Place()

    def step(self, field: Underdamped, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]:
        q, p = phases(field, y)
        if field.friction * h >= 2:
            raise SettingError(
                f"friction times h is {field.friction * h:.3g}, expected less than 2: momenta would grow"
            )
        piece, carry = self.path.next(carry, h, q, q.shape[-1])
        kick = math.sqrt(2 * field.friction * field.bath_temperature)
        p = (1 - field.friction * h) * p + h * field.force(t, q) + kick * piece.w
        return torch.cat([q + h * p, p], -1), carry


class Chain(NamedTuple):
    """Of MALA: U [...] and f [..., n] at the position, the place on the path, proposals taken and made."""

    potential: Any  # None at first
    force: Any
    place: Place
    taken: Tensor | float
    made: int


@dataclass(frozen=True)
class MALA:
    """A step of Euler-Maruyama proposed, and taken with the probability that makes exp(-U / T) stationary exactly.

    The field is a ``Density``, whose U is known up to a constant.
    """

    path: Path = field(default_factory=Brownian)

    def init(self, y: State) -> Chain:
        return Chain(None, None, Place(), 0.0, 0)

    def step(self, field: Any, t: float, h: float, y: State, carry: Chain) -> tuple[State, Chain]:
        if not hasattr(field, "potential"):
            raise SettingError("MALA weighs its steps by U: march it along a Density, not along a force alone")
        temperature, n = field.temperature, y.shape[-1]
        u, f = (field.potential(y), field(t, y)) if carry.force is None else (carry.potential, carry.force)
        piece, place = self.path.next(carry.place, 1.0, y, n + 1)
        z = y + h * f + math.sqrt(2 * temperature * h) * piece.w[..., :n]
        u_z, f_z = field.potential(z), field(t, z)
        there, back = (z - y - h * f).square().sum(-1), (y - z - h * f_z).square().sum(-1)
        log_ratio = (u - u_z) / temperature + (there - back) / (4 * temperature * h)
        uniform = torch.special.ndtr(piece.w[..., n])
        take = (uniform.log() < log_ratio) & u_z.isfinite()
        put = take[..., None]
        u, f = torch.where(take, u_z, u), torch.where(put, f_z, f)
        return torch.where(put, z, y), Chain(u, f, place, carry.taken + take.to(y), carry.made + 1)


def phases(field: Any, y: State) -> tuple[Tensor, Tensor]:
    """Positions and momenta [..., n] of a state (q, p).

    Raises:
        SettingError: the field is not ``Underdamped``, or the state has an odd length.
    """
    if not isinstance(field, Underdamped):
        raise SettingError(f"this stepper was given a {type(field).__name__}, expected Underdamped(force, friction)")
    if y.shape[-1] % 2:
        raise SettingError(f"the state has {y.shape[-1]} entries, expected positions and as many momenta")
    q, p = y.chunk(2, -1)
    return q, p


def _temperature(force: VectorField, given: float | None) -> float:
    """The one given, that of a density, or 1."""
    return _positive("temperature", getattr(force, "temperature", 1.0) if given is None else given)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise SettingError(f"{name} is {value}, expected a positive number")
    return value
