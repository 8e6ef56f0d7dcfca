"""The result of the self-test: a table of probes, and the routes that it chose."""

from dataclasses import dataclass

import torch

LOG_MAP = 'T is withheld: order 2 is had by method="log-map", which needs gradients only'


@dataclass(frozen=True)
class Probe:
    """One row of the check: a route, its relative error and the largest one allowed, and what to do where it fails."""

    check: str
    route: str
    value: float
    limit: float
    verdict: str  # "passed", "failed" or "noted"
    remedy: str = ""


def note(check: str, remedy: str, value: float = 0.0) -> Probe:
    """What is no fault, but should be known."""
    return Probe(check, "", value, 0.0, "noted", remedy)


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
        """What failed, who is to blame, and the remedies, in one text."""
        return "; ".join(dict.fromkeys(p.remedy for p in self.failures if p.remedy))

    def __str__(self) -> str:
        rows = [f"{p.check:32s} {p.route:16s} {p.value:10.2g} {p.limit:10.2g}  {p.verdict}" for p in self.probes]
        titles = f"{'check':32s} {'route':16s} {'error':>10s} {'limit':>10s}  verdict"
        return "\n".join([titles, *rows, *(f"- {p.check}: {p.remedy}" for p in self.probes if p.remedy)])
