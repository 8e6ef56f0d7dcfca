"""Stochastic differential equations, and what their steppers have in common.

dX = b(t, X) dt + sigma(t, X) dW, read as Ito's or as Stratonovich's. The drifts of the two readings differ by half the
noise's drag sum_j (D sigma_j) sigma_j; a stepper converts to the reading in which it computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from eom.dynamics.brownian import Interval, Place
from eom.dynamics.field import State, VectorField
from eom.dynamics.noise import Additive, Diagonal, Noise, require_commuting
from eom.errors import SettingError

Calculus = Literal["ito", "stratonovich"]


@dataclass(frozen=True)
class Sde:
    """dX = ``drift`` dt + ``noise`` dW for a state [..., n], in Ito's or Stratonovich's reading."""

    drift: VectorField
    noise: Noise
    calculus: Calculus = "ito"

    def __post_init__(self) -> None:
        if self.calculus not in ("ito", "stratonovich"):
            raise SettingError(f'calculus is {self.calculus!r}, expected "ito" or "stratonovich"')
        if not (callable(self.drift) and hasattr(self.noise, "drag")):
            raise SettingError(
                f"an Sde of a {type(self.drift).__name__} and a {type(self.noise).__name__}: expected a drift "
                "(t, y) -> [..., n] and a noise such as Additive(0.1) or Diagonal(function)"
            )

    def __call__(self, t: float, y: State) -> State:
        raise SettingError(
            "an Sde has no one slope: march it with a stochastic stepper such as EulerMaruyama, or pass its .drift for "
            "the motion without noise"
        )

    def read_as(self, calculus: Calculus) -> "Sde":
        """The same process in the other reading: b_Stratonovich = b_Ito - drag / 2."""
        if calculus == self.calculus:
            return self
        half = 0.5 if calculus == "ito" else -0.5
        still = isinstance(self.noise, Additive)
        drift = self.drift if still else lambda t, y: self.drift(t, y) + half * self.noise.drag(t, y)
        return Sde(drift, self.noise, calculus)


class Orders(NamedTuple):
    """Powers of h with which paths (strong) and expectations (weak) converge."""

    strong: float
    weak: float


Kinds = Mapping[str, Orders]  # for additive, commuting and general noise, as far as a stepper takes it


class Path(Protocol):
    """Where a stepper has its random numbers from: ``Brownian``, or nodes of a quadrature over them."""

    def next(self, place: Place, h: float, y: State, channels: int) -> tuple[Interval, Place]: ...
    def area(self, interval: Interval, h: float) -> Tensor: ...
    def signs(self, interval: Interval, count: int) -> Tensor: ...


class SdeStepper(Protocol):
    """A stepper of ``Sde``s: a dataclass with a path, which ``dataclasses.replace`` can refine."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    orders: ClassVar[Kinds]

    @property
    def path(self) -> Any: ...
    def init(self, y: State) -> Place: ...
    def step(self, field: Sde, t: float, h: float, y: State, carry: Place) -> tuple[State, Place]: ...


def stochastic(field: Sde, t: float, y: State, carry: Place, calculus: Calculus = "ito") -> Sde:
    """The Sde that a stochastic stepper takes, in the reading in which it computes; tested at the first step.

    Raises:
        SettingError: a field without noise, a drift of another shape. NoiseError: diagonal noise whose entries
            depend on others.
    """
    if not isinstance(field, Sde):
        raise SettingError(f"a stochastic stepper was given a {type(field).__name__}, expected an Sde(drift, noise)")
    if carry == Place():
        slope = field.drift(t, y)
        if getattr(slope, "shape", None) != y.shape:
            came = f"shape {list(slope.shape)}" if isinstance(slope, Tensor) else f"a {type(slope).__name__}"
            raise SettingError(f"the drift gave {came}, expected [..., n] = {list(y.shape)} for this state")
        if slope.dtype != y.dtype:
            raise SettingError(f"the drift gave {slope.dtype}, expected {y.dtype}, that of the state")
        field.noise(t, y, y.new_zeros(*y.shape[:-1], field.noise.channels(y)))  # its shape is looked at there
        if field.calculus != calculus and isinstance(field.noise, Diagonal):
            require_commuting(field.noise, t, y)
    return field.read_as(calculus)
