"""Stochastic views: equations and their steppers, SGD as an SDE, random depth, Langevin sampling, thermodynamics.

Names in the order in which data flows: noise and a drift make an equation, a stepper and a path march it, instruments
measure orders and expectations; then what SGD, networks of random depth, samplers and driven systems are among these.
Each is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eom.dynamics.brownian import Brownian
    from eom.dynamics.moments import evolved, marched, moments_at
    from eom.dynamics.noise import Additive, Diagonal, General, LowRank, Scalar, of_covariance
    from eom.dynamics.order import Ladder, ladder
    from eom.dynamics.quadrature import gaussian_nodes
    from eom.dynamics.sampling import strong_errors, weak_differences
    from eom.dynamics.sde import Sde
    from eom.dynamics.stochastic_steppers import SRA1, EulerMaruyama, Milstein, Platen, StochasticHeun
    from eom.dynamics.transfer import Circle, Interval, semigroup, stationary, transfer
    from eom.objective.per_sample import per_sample_gradients
    from eom.stochastic.adaptive import Adaptive, adam_sde, rmsprop_sde
    from eom.stochastic.batches import SVAG, BatchGradient
    from eom.stochastic.bias import exact_mean, overdamped_mean, splitting_mean
    from eom.stochastic.blocks import ShakeShake, StochasticDepth
    from eom.stochastic.covariance import GradientNoise, noise_of
    from eom.stochastic.density import Density, posterior
    from eom.stochastic.diagnostics import mixing
    from eom.stochastic.langevin import (
        BAOAB,
        MALA,
        OBABO,
        SGHMC,
        LeimkuhlerMatthews,
        Splitting,
        Underdamped,
        overdamped,
    )  # fmt: skip
    from eom.stochastic.near_minimum import against_run, ou_covariance, sgd_covariance
    from eom.stochastic.paths import ensemble
    from eom.stochastic.quantity import gradient_noise
    from eom.stochastic.random_depth import diffusive, literal, survival_law, uniform_law, weak_errors
    from eom.stochastic.sgd import sgd_sde, temperature
    from eom.stochastic.thermodynamics import crooks, drive, entropy_of_paths, entropy_production, jarzynski
    from eom.sweeps.svag import svag

_NAMES = {
    "eom.dynamics.noise": "Additive Scalar Diagonal General LowRank of_covariance",
    "eom.dynamics.sde": "Sde",
    "eom.dynamics.brownian": "Brownian",
    "eom.dynamics.stochastic_steppers": "EulerMaruyama StochasticHeun Milstein SRA1 Platen",
    "eom.stochastic.paths": "ensemble",
    "eom.dynamics.order": "Ladder ladder",
    "eom.dynamics.sampling": "strong_errors weak_differences",
    "eom.dynamics.moments": "moments_at evolved marched",
    "eom.dynamics.quadrature": "gaussian_nodes",
    "eom.dynamics.transfer": "Circle Interval transfer semigroup stationary",
    "eom.objective.per_sample": "per_sample_gradients",
    "eom.stochastic.covariance": "GradientNoise noise_of",
    "eom.stochastic.quantity": "gradient_noise",
    "eom.stochastic.sgd": "sgd_sde temperature",
    "eom.stochastic.batches": "BatchGradient SVAG",
    "eom.sweeps.svag": "svag",  # many runs, which live with sweeps
    "eom.stochastic.adaptive": "Adaptive rmsprop_sde adam_sde",
    "eom.stochastic.near_minimum": "ou_covariance sgd_covariance against_run",
    "eom.stochastic.blocks": "ShakeShake StochasticDepth",
    "eom.stochastic.random_depth": "uniform_law survival_law diffusive literal weak_errors",
    "eom.stochastic.density": "Density posterior",
    "eom.stochastic.langevin": "overdamped LeimkuhlerMatthews MALA Underdamped Splitting BAOAB OBABO SGHMC",
    "eom.stochastic.bias": "exact_mean overdamped_mean splitting_mean",
    "eom.stochastic.diagnostics": "mixing",
    "eom.stochastic.thermodynamics": "drive jarzynski crooks entropy_production entropy_of_paths",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - in the order in which data flows
    "Additive", "Scalar", "Diagonal", "General", "LowRank", "of_covariance", "Sde", "Brownian", "EulerMaruyama",
    "StochasticHeun", "Milstein", "SRA1", "Platen", "ensemble", "Ladder", "ladder", "strong_errors", "weak_differences",
    "moments_at", "evolved", "marched", "gaussian_nodes", "Circle", "Interval", "transfer", "semigroup", "stationary",
    "per_sample_gradients", "GradientNoise", "noise_of", "gradient_noise", "sgd_sde", "temperature", "BatchGradient",
    "SVAG", "svag", "Adaptive", "rmsprop_sde", "adam_sde", "ou_covariance", "sgd_covariance", "against_run",
    "ShakeShake", "StochasticDepth", "uniform_law", "survival_law", "diffusive", "literal", "weak_errors", "Density",
    "posterior", "overdamped", "LeimkuhlerMatthews", "MALA", "Underdamped", "Splitting", "BAOAB", "OBABO", "SGHMC",
    "exact_mean", "overdamped_mean", "splitting_mean", "mixing", "drive", "jarzynski", "crooks", "entropy_production",
    "entropy_of_paths",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'eom.stochastic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
