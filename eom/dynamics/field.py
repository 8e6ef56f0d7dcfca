"""Vector fields on flat states, and their sums and multiples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from eom.calculus.lie import directional
from eom.calculus.potentials import Function, Potential
from eom.calculus.products import ScalarFunction
from eom.errors import SettingError

State = Tensor  # [n], one flat vector, any floating dtype
VectorField = Callable[[float, State], State]  # (t, y) -> dy/dt


@runtime_checkable
class SmoothField(Protocol):
    """An autonomous field that brings its own derivatives.

    ``linearize`` gives f(y) [n] and the product v -> f'(y) v; ``second_derivative`` gives f''(y)(u, v) [n].
    """

    def __call__(self, t: float, y: State) -> State: ...
    def linearize(self, t: float, y: State) -> tuple[State, Callable[[State], State]]: ...
    def second_derivative(self, t: float, y: State, u: State, v: State) -> State: ...


@dataclass(frozen=True)
class GradientFlow:
    """y' = -grad L(y); derivatives by double and triple backward."""

    potential: Potential

    def __call__(self, t: float, y: State) -> State:
        return -self.potential.gradient(y)

    def linearize(self, t: float, y: State) -> tuple[State, Callable[[State], State]]:
        _, g, hvp = self.potential.expansion(y)
        return -g, lambda v: -hvp(v)

    def second_derivative(self, t: float, y: State, u: State, v: State) -> State:
        return -self.potential.third(y, u, v)


def gradient_flow(objective: Potential | ScalarFunction) -> GradientFlow:
    """Gradient flow theta' = -grad L(theta), the equation of motion of order 0.

    Args:
        objective: an ``eom.Objective``, or any smooth function [n] -> [].

    Returns:
        (t, [n]) -> [n]; autonomous.
    """
    known = hasattr(objective, "expansion")
    return GradientFlow(cast(Potential, objective) if known else Function(cast(ScalarFunction, objective)))


@dataclass(frozen=True)
class Sum:
    """f_1 + f_2 + ... of fields that all bring their derivatives."""

    fields: tuple[SmoothField, ...]

    def __call__(self, t: float, y: State) -> State:
        return _total(f(t, y) for f in self.fields)

    def linearize(self, t: float, y: State) -> tuple[State, Callable[[State], State]]:
        values, products = zip(*(f.linearize(t, y) for f in self.fields), strict=True)
        return _total(values), lambda v: _total(p(v) for p in products)

    def second_derivative(self, t: float, y: State, u: State, v: State) -> State:
        return _total(f.second_derivative(t, y, u, v) for f in self.fields)


@dataclass(frozen=True)
class Scaled:
    """w f, with ``weight`` [] or, as a diagonal preconditioner, [n]."""

    field: SmoothField
    weight: float | Tensor

    def __call__(self, t: float, y: State) -> State:
        return self.weight * self.field(t, y)

    def linearize(self, t: float, y: State) -> tuple[State, Callable[[State], State]]:
        value, product = self.field.linearize(t, y)
        return self.weight * value, lambda v: self.weight * product(v)

    def second_derivative(self, t: float, y: State, u: State, v: State) -> State:
        return self.weight * self.field.second_derivative(t, y, u, v)


@dataclass(frozen=True)
class Decay:
    """-strength * y: weight decay of parameters, friction of a momentum."""

    strength: float | Tensor

    def __call__(self, t: float, y: State) -> State:
        return -self.strength * y

    def linearize(self, t: float, y: State) -> tuple[State, Callable[[State], State]]:
        return self(t, y), lambda v: self(t, v)

    def second_derivative(self, t: float, y: State, u: State, v: State) -> State:
        return torch.zeros_like(y)


def require_function(**settings: Any) -> None:
    """Raise where one of them is none; a class is called first."""
    wrong = [f"{name} is {x!r}" for name, x in settings.items() if isinstance(x, type) or not callable(x)]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected a function of states, as a network is")


def rate_of(field: Callable[[State], Any], y: State) -> State:
    """field(y) in the floats of ``y``; one of each entry, which torch would make of others in silence."""
    rate = field(y)
    if not isinstance(rate, Tensor) or rate.shape != y.shape or rate.is_complex() > y.is_complex():
        came = f"{rate.dtype} of shape {list(rate.shape)}" if isinstance(rate, Tensor) else f"a {type(rate).__name__}"
        raise SettingError(
            f"the rate of states {y.dtype} {list(y.shape)} is {came}, expected one of each entry, real if they are"
        )
    return rate.to(y.dtype) if y.is_floating_point() or y.is_complex() else rate


def plus(*fields: VectorField) -> VectorField:
    """Sum of fields; it keeps their own derivatives where each of them brings some."""
    if all(isinstance(f, SmoothField) for f in fields):
        return Sum(cast(tuple[SmoothField, ...], fields))
    return lambda t, y: _total(f(t, y) for f in fields)


def scaled(field: VectorField, weight: float | Tensor) -> VectorField:
    """``weight`` [] or [n] times a field; it keeps the field's own derivatives."""
    if isinstance(field, SmoothField):
        return Scaled(field, weight)
    return lambda t, y: weight * field(t, y)


def decay(strength: float | Tensor) -> Decay:
    """The field -strength * y."""
    return Decay(strength)


def derivative(field: VectorField, t: float, y: State, v: State) -> State:
    """f'(y) v, [n]: the field's own where it brings one, else by forward mode."""
    if isinstance(field, SmoothField):
        return field.linearize(t, y)[1](v)
    return directional(lambda x: field(t, x), y, v)


def _total(terms) -> State:
    first, *rest = terms
    return sum(rest, start=first)
