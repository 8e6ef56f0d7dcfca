"""Rules by which a field is learned from a window of states: residuals [b, ...] in units of a rate.

Each is a function of (field, window). Those of one step look at every two states in a row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

from eom.calculus.discrete import discrete_gradient
from eom.dynamics.field import rate_of
from eom.dynamics.runge_kutta import RK4
from eom.dynamics.stepper import Stepper, require_stepper, require_tolerance
from eom.errors import DataError, SettingError, StepError
from eom.physics.limits import is_number, require_fixed, require_whole
from eom.physics.trajectories import Trajectories, Window

Rule = Callable[[Any, Window], Tensor]
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")  # of torchdiffeq; others have a fixed step
GIVEN_UP = {  # what torchdiffeq asserts
    "underflow in dt": "no step is small enough: the flow runs away or jumps, or its floats round by more than rtol",
    "max_num_steps exceeded": "max_steps are used up, as by a stiff field: allow more, or take a larger rtol",
    "non-finite values in state": "the motion has left the finite numbers",
}


def match_slopes(field: Any, window: Window) -> Tensor:
    """u' - f(u), for observed rates u': the rule of Hamiltonian neural networks (Greydanus et al. 2019, eq. 3)."""
    if window.slope is None:
        raise DataError("the rule compares rates, and none were observed: give Trajectories(..., slopes=), or take a "
                        "rule of states only, as in hamiltonian_network(size, rule=physics.midpoint)")  # fmt: skip
    return window.slope - _each(window.u, lambda u: field(0.0, u))


def midpoint(field: Any, window: Window) -> Tensor:
    """(u_1 - u_0) / h - f((u_0 + u_1) / 2), of uneven times each step by its share of the mean one."""
    middle = (window.u[:, 1:] + window.u[:, :-1]) / 2
    return _weighed(window, _change(window) - _each(middle, lambda u: field(0.0, u)))


def match_discrete_gradient(field: Any, window: Window) -> Tensor:
    """(u_1 - u_0) / h - G DG(u_1, u_0): what the model's own energy-keeping step leaves; weighed as in ``midpoint``.

    Source: Matsubara, Ishikawa & Yaguchi, NeurIPS 2020, sec. 4.
    """
    if not (hasattr(field, "energy") and hasattr(field, "structure")):
        raise SettingError(
            f"the rule match_discrete_gradient was given a {type(field).__name__}, which has no energy and structure: "
            "take EnergyField(energy, structure), as energy_model does, or a rule of any field, such as midpoint"
        )
    n = window.u.shape[-1]
    after, before = window.u[:, 1:].reshape(-1, n), window.u[:, :-1].reshape(-1, n)
    change = _change(window)
    slopes = field.structure(discrete_gradient(field.energy, after, before))
    return _weighed(window, change - slopes.reshape(change.shape))


def require_rule(rule: Any) -> None:
    """Raise where it is none; the class of one is called first."""
    if isinstance(rule, type) or not callable(rule):
        raise SettingError(
            f"the rule is {getattr(rule, '__name__', rule)!r}, expected a function of field and window, such as "
            "midpoint or Shooting(RK4())"
        )


@dataclass(frozen=True)
class Shooting:
    """(u_k - v_k) / h for v_k, k steps of ``stepper`` from u_0: of as many steps as the window has.

    h is the mean step. With a symplectic stepper the field learns the energy whose march, not whose flow, fits.
    """

    stepper: Stepper = field(default_factory=RK4)
    substeps: int = 1

    def __post_init__(self) -> None:
        require_stepper(self.stepper)

    def __call__(self, field: Any, window: Window) -> Tensor:
        marched = torch.stack(list(followed(field, self.stepper, window.u[:, 0], window.t, self.substeps)), 1)
        return (window.u[:, 1:] - marched) / mean_step(window)


class FromFittedStarts(nn.Module):
    """(u_k - v_k) / h, k = 0, 1, ..., for shots whose first states are parameters, one for each window of ``data``.

    Noise in a first state then is no error of the field. Give ``fit`` the same window and stride.

    Source: Chen, Zhang, Arjovsky & Bottou, Symplectic recurrent neural networks, ICLR 2020 (initial states).
    """

    def __init__(self, data: Trajectories, stepper: Stepper, *, window: int, stride: int, substeps: int = 1):
        super().__init__()
        require_stepper(stepper)
        self.stepper, self.substeps = stepper, substeps
        self.observed = _windows(data, window, stride)[:, :1].clone()
        self.starts = nn.Parameter(self.observed[:, 0].clone())

    def forward(self, field: Any, window: Window) -> Tensor:
        _known(window.number, self.observed, window)
        start = self.starts[window.number].to(window.u.dtype)
        marched = torch.stack([start, *followed(field, self.stepper, start, window.t, self.substeps)], 1)
        return (window.u - marched) / mean_step(window)


class ErrorsInVariables(nn.Module):
    """A ``rule`` of one step on states that are parameters too, near the observed ones: (w r(v), (v - u) / h).

    The larger ``weight`` w, the more nearly the states v obey the field; at w = 1 they are the observed ones, nearly.
    For windows that do not overlap, such as whole trajectories; give ``fit`` the same window and stride.
    """

    def __init__(self, rule: Rule, data: Trajectories, *, window: int, stride: int, weight: float = 10.0):
        super().__init__()
        require_rule(rule)
        if not 0 < weight < math.inf:
            raise SettingError(f"weight is {weight}, expected a positive number: 1 for states nearly as observed, 10")
        self.rule, self.weight = rule, weight
        self.observed = _windows(data, window, stride)
        self.states = nn.Parameter(self.observed.clone())

    def forward(self, field: Any, window: Window) -> Tensor:
        if window.u.shape[1] != self.observed.shape[1]:
            raise DataError(
                f"windows of {window.u.shape[1] - 1} steps, expected {self.observed.shape[1] - 1} as of the rule"
            )
        _known(window.number, self.observed, window)
        v = self.states[window.number].to(window.u.dtype)
        off = (v - window.u) / mean_step(window)
        return torch.cat([off, self.weight * self.rule(field, window._replace(u=v))], 1)


def given_up(failure: AssertionError) -> str:
    """Why a solver of torchdiffeq took no further step; an assertion of the field's own is raised again."""
    for text, why in GIVEN_UP.items():
        if text in str(failure):
            return why
    raise failure


@dataclass(frozen=True)
class Adaptive:
    """Steps of torchdiffeq's adaptive ``method``, for any field; gradients through it, or by the ``adjoint`` equation.

    ``max_steps`` is of the steps within one from a time to the next; ``atol`` is by default a hundredth of ``rtol``
    times the root mean square of the states. Errors are root mean squares over all members of a batch.

    Source: Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, NeurIPS 2018.
    """

    rtol: float = 1e-6
    atol: float | None = None
    method: str = "dopri5"
    adjoint: bool = False
    max_steps: int = 2000

    def __post_init__(self) -> None:
        if self.method not in ADAPTIVE:
            raise SettingError(
                f"method is {self.method!r}, expected one that adapts its steps: {', '.join(ADAPTIVE)}. For steps as "
                "they come take a stepper such as RK4()"
            )
        require_tolerance(rtol=self.rtol)
        require_whole(max_steps=self.max_steps)
        if self.atol is not None and not (is_number(self.atol) and self.atol >= 0):
            raise SettingError(f"atol is {self.atol!r}, expected a finite number of 0 or more")

    def init(self, y: Tensor) -> None:
        return None

    def step(self, field: Any, t: float, h: Any, y: Tensor, carry: None) -> tuple[Tensor, None]:
        if self.adjoint and not isinstance(field, nn.Module):
            raise SettingError("the adjoint equation needs a field that is a module, whose parameters are known")
        if not (y.is_floating_point() or y.is_complex()):
            raise SettingError(f"states are {y.dtype}, expected floats: take y.double()")
        size = float(y.detach().abs().square().mean().sqrt())
        atol = self.atol if self.atol is not None else self.rtol / 100 * (size or 1.0)
        span = torch.tensor([0.0, 1.0], dtype=torch.float64, device=y.device)  # of h, which may differ between members
        options, back = ({"max_num_steps": self.max_steps, "step_t": end} for end in (span[1:], span[:1]))
        solve: Any = partial(torchdiffeq.odeint_adjoint, adjoint_options=back) if self.adjoint else torchdiffeq.odeint
        scaled, wide = _Scaled(field, t, h, y.dtype), y.to(torch.promote_types(y.dtype, torch.float64))
        with torch.no_grad():  # that of torchdiffeq's own choice has a gradient
            rate = scaled(span[0], wide)
            if not bool(rate.isfinite().all()):
                raise StepError("the rate is not finite at the start of the step")
            share = 0.1 * wide.norm() / rate.norm()
            options["first_step"] = torch.nan_to_num(share, nan=1.0).clamp(1e-6, 1.0)
        try:  # a step ends at the end, as otherwise torchdiffeq goes on; it interpolates even so, and loses a digit
            found = solve(scaled, wide, span, rtol=self.rtol, atol=atol, method=self.method, options=options)
        except AssertionError as failure:
            why = given_up(failure)
            require_fixed("the rate", lambda u: field(t, u), y)  # of which no step is small enough
            raise StepError(f"the adaptive step of {self.method} was given up: {why}") from failure
        return found[-1].to(y.dtype), None


class _Scaled(nn.Module):
    """(s, u) -> h f(t + s h, u), of states in double precision."""

    def __init__(self, field: Any, t: float, h: Any, dtype: torch.dtype):
        super().__init__()
        self.field, self.t, self.h, self.dtype = field, t, h, dtype

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        return self.h * rate_of(partial(self.field, self.t + float(s.detach()) * self.h), u.to(self.dtype)).to(u.dtype)


def followed(field: Any, stepper: Stepper, u: Tensor, times: Tensor, substeps: int = 1):
    """Yield u [b, n] at each of ``times`` [b, s] after the first, with steps [b, 1] of each member's own."""
    if type(substeps) is not int or substeps < 1:
        raise SettingError(f"substeps is {substeps!r}, expected 1 or more")
    carry = stepper.init(u)
    for h in (times.diff(dim=1) / substeps).to(u.dtype).unbind(1):
        same = bool((h == h[0]).all())
        for _ in range(substeps):
            u, carry = stepper.step(field, 0.0, float(h[0]) if same else h[:, None], u, carry)  # type: ignore[arg-type] - a step of each member
        yield u


def mean_step(window: Window) -> Tensor:
    """[b, 1, 1] the mean step of the data that each is from; of windows made by hand, their own."""
    step = window.t.diff(dim=1).mean().expand(len(window.t)) if window.step is None else window.step
    return step[:, None, None].to(window.u.dtype)


def _windows(data: Any, window: int, stride: int) -> Tensor:
    """[b, k + 1, n] states of the windows of data that a rule is made for."""
    if not isinstance(data, Trajectories):
        raise DataError(f"the data are a {type(data).__name__}, expected the Trajectories that fit is given")
    return data.windows(window, stride).u


def _known(number: Tensor, observed: Tensor, window: Window) -> None:
    """Raise where a rule with parameters for each window meets windows that it was not made for."""
    if int(number.max()) >= len(observed) or not torch.equal(
        observed[number].to(window.u), window.u[:, : observed.shape[1]]
    ):
        raise DataError(
            "the rule has parameters for the windows of the data it was made for, and is given others: give fit the "
            "same data, window and stride; for validation take a model with a plain rule"
        )


def _weighed(window: Window, residual: Tensor) -> Tensor:
    """By h over the mean step: noise in states counts alike in all steps, however near two times are.

    The error of the rule itself, h^2, is that of the long ones then.
    """
    return residual * window.t.diff(dim=1)[..., None].to(residual.dtype) / mean_step(window)


def _change(window: Window) -> Tensor:
    return window.u.diff(dim=1) / window.t.diff(dim=1)[..., None].to(window.u.dtype)


def _each(u: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """f of states [b, k, n], as one batch."""
    return f(u.flatten(0, 1)).reshape(u.shape)
