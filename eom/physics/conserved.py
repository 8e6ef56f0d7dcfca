"""Conserved quantities of a field that is known by its values alone, as of a trained neural ODE.

I(u) = c . phi(u) is conserved where grad I . f = 0. Over sample states its relative rate is

    rate(c)^2 = sum |grad I . f|^2 / sum |grad I|^2 |f|^2,

between 0 and 1, the least ones by the singular values of one matrix in the basis where the other is the unit. It is
read anew on states that were held out.

Source: Kaiser, Kutz & Brunton, Discovering conservation laws from data for control, 2018 (the linear problem).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, pairwise
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from eom.dynamics.field import VectorField, require_function
from eom.errors import SettingError
from eom.physics.laws import checked_states, in_floats_of, require_size
from eom.physics.limits import is_number, said
from eom.physics.models import LearnedSystem, as_predicting
from eom.physics.systems import System

FAR = 5.0  # times the power of ten above the spread, beyond which a mean is taken off
SAME = 1e-10  # of the largest singular value, below which a direction of features is constant


@dataclass(frozen=True)
class Features:
    """Monomials of degree 1 to ``degree`` in (u - mean) / spread; the cosine and sine of ``angles`` in their place."""

    mean: Tensor
    spread: Tensor
    angles: tuple[int, ...]
    powers: tuple[tuple[int, ...], ...]

    def __call__(self, u: Tensor) -> Tensor:
        """[..., n] -> [..., k]."""
        x = (u - self.mean) / self.spread
        flat = [x[..., i] for i in range(u.shape[-1]) if i not in self.angles]
        turned = [f(u[..., i]) for i in self.angles for f in (torch.cos, torch.sin)]
        parts = flat + turned
        return torch.stack([math.prod((parts[i] for i in m[1:]), start=parts[m[0]]) for m in self.powers], -1)


@dataclass(frozen=True)
class Candidate:
    """I(u) = c . phi(u), [b, n] -> [b]; its relative ``rate`` on held-out states, half-width ``bar`` of 95 %."""

    features: Features
    weights: Tensor
    rate: float
    bar: float

    def __call__(self, u: Tensor) -> Tensor:
        return self.features(u) @ self.weights

    def __str__(self) -> str:
        """As a polynomial in the entries, u0, u1, ..., or what is left of those that are far from 0.

        Terms and digits are those that change it by a hundredth of its spread or more.
        """
        f = self.features
        shift = _round(f.mean, f.spread)
        names = [f"u{i}" if x == 0 else f"(u{i} {'-' if x > 0 else '+'} {abs(x):.15g})" for i, x in enumerate(shift)]
        names = [name for i, name in enumerate(names) if i not in f.angles]
        names += [f"{turn}(u{i})" for i in f.angles for turn in ("cos", "sin")]
        sines = {i for i, name in enumerate(names) if name.startswith("sin")}
        powers = [m for m in f.powers if not any(i == j and i in sines for i, j in pairwise(m))]  # sin^2 is 1 - cos^2
        plain = Features(torch.tensor(shift, dtype=f.mean.dtype), torch.ones_like(f.spread), f.angles, tuple(powers))
        noise = torch.randn(4 * len(f.powers), len(f.mean), generator=torch.Generator().manual_seed(0))
        u = f.mean + f.spread * noise.double()
        terms = torch.cat([torch.ones_like(u[:, :1]), plain(u)], 1)
        units = terms.abs().amax(0)  # powers of small or large entries
        weights = (torch.linalg.lstsq(terms / units, self(u)[:, None]).solution[:, 0] / units)[1:]
        sizes = weights.abs() * terms[:, 1:].std(0)
        shares = (sizes / min(sizes.max(), self(u).std())).tolist()  # large where terms cancel
        written = [
            " ".join(
                [f"{w:.{_digits(share)}g}", *(names[i] + (f"^{k}" if k > 1 else "") for i, k in Counter(m).items())]
            )
            for w, share, m in zip((weights / weights[sizes.argmax()]).tolist(), shares, powers, strict=True)
            if share > 0.01
        ]
        return " + ".join(written).replace("+ -", "- ")


def _round(mean: Tensor, spread: Tensor) -> list[float]:
    """A round number near each mean that is far from 0, beside the spread; or 0."""
    units = [10 ** math.ceil(math.log10(s)) for s in spread.tolist()]
    return [
        round(m / unit) * unit if abs(m) > FAR * unit else 0.0 for m, unit in zip(mean.tolist(), units, strict=True)
    ]


def _digits(share: float) -> int:
    """Of a number whose term is so many times as large as the whole: three, and those that cancel."""
    return 3 + max(0, math.ceil(math.log10(share)))


@dataclass(frozen=True)
class Conserved:
    """``candidates`` by rising rate; ``found`` are those with rate + bar below ``tolerance``.

    ``independent`` counts those among them that are no functions of each other: the rank of their gradients.
    """

    candidates: tuple[Candidate, ...]
    tolerance: float
    independent: int

    @property
    def found(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.candidates if c.rate + c.bar <= self.tolerance)

    def __str__(self) -> str:
        best = self.candidates[0]
        closest = f"{best.rate:.2g} ± {best.bar:.1g}"
        if not self.found:
            return (
                f"None of these features is conserved to {self.tolerance:g}: the best relative rate is {closest}, and "
                "the error bar is added to it. More may be found at a higher degree, with angles=, or to a larger "
                "tolerance."
            )
        which = f", of {best}." if len(self.found) == 1 else ". They are written by [str(c) for c in laws.found]."
        return (
            f"{len(self.found)} conserved to {self.tolerance:g}, {self.independent} of them independent; the best "
            f"relative rate on held-out states is {closest}{which}"
        )


def conserved_quantity(
    field: VectorField | LearnedSystem | System,
    states: Tensor,
    *,
    degree: int = 2,
    angles: Sequence[int] = (),
    tolerance: float = 1e-3,
) -> Conserved:
    """Conserved quantities of u' = ``field`` (t, u) among polynomials of ``degree`` in entries of ``states`` [b, n].

    Of a learned field it says what that one conserves, not what the system does that it was learned from.

    Every fourth state is held out. A field that is learned to an accuracy e conserves to about e: take ``tolerance``
    from it. High degrees find functions that are nearly conserved on few states of a small region: none of a damped
    system is conserved all about its rest.

    Args:
        field: (t, [b, n]) -> [b, n], autonomous; or what has such a ``field``, as a model and a system.
        angles: entries that stand by their cosine and sine.

    Raises:
        SettingError: states that are not finite, too few or all alike; a field of another shape or not finite.
    """
    checked_states(states, 8)
    if type(degree) is not int or degree < 1 or not (is_number(tolerance) and 0 < tolerance < 1):
        raise SettingError(f"degree is {degree!r}, tolerance {tolerance!r}; expected 1, 2, ... and a number in (0, 1)")
    n = states.shape[1]
    require_size(field, states)
    try:
        turned = sorted({index(i) for i in angles})
    except TypeError:
        turned = [-1]
    if not set(turned) <= set(range(n)):
        raise SettingError(f"angles are {angles!r}, expected entries of 0 to {n - 1}, such as (0,)")
    rates_of: Any = getattr(field, "field", field)
    require_function(field=rates_of)
    u = states.detach().double()
    with torch.no_grad(), as_predicting(rates_of):
        f = rates_of(0.0, in_floats_of(rates_of, states.detach()))
    if not isinstance(f, Tensor) or f.shape != states.shape or not bool(torch.isfinite(f).all()):
        raise SettingError(f"the field of states {list(u.shape)} is {said(f)}, or not finite")
    spread = u.std(0)
    if bool((spread == 0).any()) or not bool((f != 0).any()):
        raise SettingError("some entry is the same in all states, or the field is 0 on all: nothing can be told")
    parts = range(n + len(turned))
    powers = tuple(m for d in range(1, degree + 1) for m in combinations_with_replacement(parts, d))
    features = Features(u.mean(0), spread, tuple(turned), powers)
    held = torch.arange(len(u)) % 4 == 3
    if int((~held).sum()) < 2 * len(powers):
        raise SettingError(
            f"{len(u)} states for {len(powers)} features, expected {math.ceil(8 * len(powers) / 3) + 1} or more"
        )
    slopes = vmap(jacfwd(features))(u) * spread  # [b, k, n], of normalised entries
    f = f.double() / spread
    rates = torch.einsum("bkn,bn->bk", slopes, f)
    sizes = (slopes * f.norm(dim=-1)[:, None, None]).mT  # [b, n, k]
    weights = _least(rates[~held], sizes[~held].flatten(0, 1))
    found = [Candidate(features, w, *_rate(rates[held] @ w, (sizes[held] @ w).square().sum(-1))) for w in weights.T]
    found.sort(key=lambda c: c.rate)
    laws = Conserved(tuple(found), tolerance, 0)
    ranks = (_rank(slopes[held], laws.found[: k + 1]) for k in range(len(laws.found)))  # a worse one takes none away
    return replace(laws, independent=max(ranks, default=0))


def _least(rates: Tensor, sizes: Tensor) -> Tensor:
    """[k, m] directions with |sizes w| = 1, by rising |rates w|."""
    _, s, basis = torch.linalg.svd(sizes, full_matrices=False)
    keep = s > SAME * s[0]
    unit = basis[keep].T / s[keep]
    _, _, turned = torch.linalg.svd(rates @ unit, full_matrices=True)
    return unit @ turned.T.flip(1)


def _rate(off: Tensor, size: Tensor) -> tuple[float, float]:
    """The root of sum off^2 / sum size over states, and the half-width of its 95 % interval, by the delta method."""
    square, mean = off.square(), float(size.mean())
    ratio = float(square.mean()) / mean
    error = 1.96 * float((square - ratio * size).std()) / mean / math.sqrt(len(off))
    return math.sqrt(ratio), error / (2 * math.sqrt(ratio)) if ratio else 0.0


def _rank(slopes: Tensor, found: Sequence[Candidate]) -> int:
    """The usual rank of the gradients [n, m] of some functions at a state: the median over states.

    A gradient is off by about the rate e: what counts is ten times that, 10 e / (1 + 10 e) to stay below the whole.
    """
    off = 10 * max(c.rate + c.bar for c in found)
    weights = torch.stack([c.weights for c in found], -1)
    gradients = torch.einsum("bkn,km->bnm", slopes, weights / (slopes.mT @ weights).square().mean((0, 1)).sqrt())
    s = torch.linalg.svdvals(gradients)
    return int((s > max(off / (1 + off), SAME) * s[:, :1]).sum(-1).median())
