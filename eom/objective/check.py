"""The result of the self-test: a table of probes, and the routes that it chose."""

from dataclasses import dataclass

import torch

LOG_MAP = 'T is withheld; outside a tracked run eom.corrected(..., method="log-map") reaches order 2 from gradients'
NO_THIRD = 'T(v, v) is not tried where H v is taken by differences, as product="auto" does only where it must'


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


@dataclass(frozen=True, repr=False)
class Check:
    """The result of the self-test, and the routes it chose.

    ``product`` is the route to H v: as asked for, or another where that is wrong or missing. ``second`` says whether
    H v by that route may be used, ``third`` whether T may. ``jacobian`` says it of J v, J being the Jacobian of the
    gradient: H where the gradient is that of the loss, and what a tracked training follows where it is not. ``dtype``
    is the precision of the probes, ``casts`` are those of autocast.
    """

    probes: tuple[Probe, ...]
    product: str
    second: bool
    third: bool
    jacobian: bool
    dtype: str
    casts: frozenset[torch.dtype]

    @property
    def passed(self) -> bool:
        """Whether no probe failed; where one did, there may be a right H v still, by another route."""
        return not self.failures

    @property
    def failures(self) -> list[Probe]:
        return [p for p in self.probes if p.verdict == "failed"]

    @property
    def reason(self) -> str:
        """What failed, who is to blame, and the remedies, in one text."""
        return "; ".join(dict.fromkeys(p.remedy for p in self.failures if p.remedy))

    def __repr__(self) -> str:
        """A table of what was tested, and below it what is to be known and done."""
        rows = [("check", "route", "error", "limit", "verdict")]
        rows += [
            (p.check, p.route, f"{p.value:.2g}", f"{p.limit:.2g}", p.verdict)
            for p in self.probes
            if p.verdict != "noted"
        ]
        table = [
            f"{check:30s} {route:16s} {error:>9s} {limit:>9s}  {verdict}"
            for check, route, error, limit, verdict in rows
        ]
        remarks: dict[str, str] = {}
        for p in self.probes:
            if p.remedy:
                remarks.setdefault(p.remedy, p.check)  # each once
        return "\n".join([*table, *(f"- {check}: {text}" for text, check in remarks.items())])
