"""The result of the self-test: a table of probes, and the routes that it chose."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Probe:
    """One row of the check: a route, its relative error and the largest one allowed, and what to do where it fails."""

    check: str
    route: str
    value: float
    limit: float
    verdict: str  # "passed", "failed" or "noted"
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """The result of the self-test, and the routes it chose.

    ``product`` is the route to H v: as asked for, or "difference" where that is wrong or missing. ``second`` and
    ``third`` say whether H v by that route and T may be used, ``conservative`` whether the gradient is the derivative
    of the loss, so that there is a Hessian; ``dtype`` is the precision of the probes, ``casts`` are those of autocast.
    """

    probes: tuple[Probe, ...]
    product: str
    second: bool
    third: bool
    conservative: bool
    dtype: str
    casts: frozenset[torch.dtype]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[Probe]:
        return [p for p in self.probes if p.verdict == "failed"]

    @property
    def reason(self) -> str:
        """What failed, and the remedies, in one text."""
        return "; ".join(f"{p.check}, {p.route}: error {p.value:.2g} ({p.remedy})" for p in self.failures if p.remedy)
