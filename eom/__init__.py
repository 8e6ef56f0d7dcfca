"""eom: the equation of motion of gradient descent, measured on your own training run.

Names in the order in which data flows: a loss becomes an objective, an objective a field, a field and a stepper a
corrected field; a tracker records a run, and a report is read off it. Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eom import physics, stochastic, testing
    from eom.analysis.compare import compare
    from eom.analysis.report import report
    from eom.dynamics.correction import corrected
    from eom.dynamics.field import decay, gradient_flow, plus, scaled
    from eom.dynamics.integrate import flow
    from eom.dynamics.observable import norm_squared, rate
    from eom.dynamics.runge_kutta import RK4, Euler, Heun
    from eom.dynamics.stepper import end, march
    from eom.objective.objective import Objective
    from eom.objective.spectrum import sharpness
    from eom.records.run import Run, open_run
    from eom.sweeps.sweep import sweep
    from eom.tracking.track import track

_HOME = {
    "Objective": "eom.objective.objective",
    "gradient_flow": "eom.dynamics.field",
    "plus": "eom.dynamics.field",
    "scaled": "eom.dynamics.field",
    "decay": "eom.dynamics.field",
    "Euler": "eom.dynamics.runge_kutta",
    "Heun": "eom.dynamics.runge_kutta",
    "RK4": "eom.dynamics.runge_kutta",
    "corrected": "eom.dynamics.correction",
    "march": "eom.dynamics.stepper",
    "end": "eom.dynamics.stepper",
    "flow": "eom.dynamics.integrate",
    "norm_squared": "eom.dynamics.observable",
    "rate": "eom.dynamics.observable",
    "sharpness": "eom.objective.spectrum",
    "track": "eom.tracking.track",
    "open_run": "eom.records.run",
    "Run": "eom.records.run",
    "report": "eom.analysis.report",
    "compare": "eom.analysis.compare",
    "sweep": "eom.sweeps.sweep",
}

__all__ = [  # noqa: RUF022 - in the order in which data flows
    "Objective", "gradient_flow", "plus", "scaled", "decay", "Euler", "Heun", "RK4", "corrected", "march", "end",
    "flow", "norm_squared", "rate", "sharpness", "track", "open_run", "Run", "report", "compare",
    "sweep", "stochastic", "physics", "testing",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("stochastic", "physics", "testing"):
        return import_module(f"eom.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'eom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
