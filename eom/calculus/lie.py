"""Lie derivatives of fields along fields, and the modified equation of a one-step map built from them."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.func import jvp

from eom.calculus.exact import nested

Field = Callable[[Tensor], Tensor]  # [n] -> [n], autonomous


def directional(f: Callable[[Tensor], Tensor], y: Tensor, v: Tensor) -> Tensor:
    """f'(y) v, by forward mode; it can be nested."""
    with nested():
        return jvp(f, (y,), (v,))[1]


def along(u: Field, w: Field) -> Field:
    """D_u w = w'(y) u(y), [n]: the derivative of the field ``w`` along the field ``u``."""
    return lambda y: directional(w, y, u(y))


def taylor(step: Callable[[Tensor, Tensor], Tensor], order: int) -> list[Field]:
    """Coefficients d_1 .. d_order of a step map y + h d_1(y) + h^2 d_2(y) + ..., by nested forward mode in h.

    Args:
        step: (h [], y [n]) -> [n], smooth in h at 0.
        order: how many coefficients.
    """

    def coefficient(k: int) -> Field:
        def d(y: Tensor) -> Tensor:
            def nth(m: int, h: Tensor) -> Tensor:
                if m == 0:
                    return step(h, y)
                return directional(lambda s: nth(m - 1, s), h, torch.ones_like(h))

            return nth(k, torch.zeros((), dtype=y.dtype, device=y.device)) / math.factorial(k)

        return d

    return [coefficient(k) for k in range(1, order + 1)]


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ordered ways to write ``total`` as a sum of ``parts`` positive integers."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def modified_terms(increments: Sequence[Field]) -> list[Field]:
    """Terms f_1, f_2, ... of the field f_1 + h f_2 + h^2 f_3 + ... whose flow is the step map.

    With the map y + h d_1 + h^2 d_2 + ... and D_k w = w' f_k,

        f_j = d_j - sum_{i=2}^{j} 1/i! sum_{k_1 + ... + k_i = j} D_{k_1} ... D_{k_{i-1}} f_{k_i}.

    Each nested derivative is built once and shared between the terms that hold it.

    Args:
        increments: d_1 .. d_K of the step map, each [n] -> [n].

    Source: Hairer, Lubich & Wanner, Geometric Numerical Integration (2006), sec. IX.1;
        for Euler's method also Miyagawa, NeurIPS 2022 (arXiv 2210.15898).
    """
    terms: list[Field] = []

    @cache
    def chain(ks: tuple[int, ...]) -> Field:
        if len(ks) == 1:
            return terms[ks[0] - 1]
        return along(terms[ks[0] - 1], chain(ks[1:]))

    def term(j: int) -> Field:
        parts = [(1 / math.factorial(i), chain(ks)) for i in range(2, j + 1) for ks in compositions(j, i)]
        return lambda y: increments[j - 1](y) - sum((c * w(y) for c, w in parts), start=torch.zeros_like(y))

    for j in range(1, len(increments) + 1):
        terms.append(term(j))
    return terms
