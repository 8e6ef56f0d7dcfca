"""Compositions are of the order that they are given, and of no higher one."""

import math
from itertools import pairwise

import pytest
from mechanics import SPLIT_PENDULUM, start

from eom.dynamics.stepper import end
from eom.dynamics.symplectic import Composed, Leapfrog, suzuki, yoshida
from eom.errors import SettingError


def mirrored(*half: float) -> tuple[float, ...]:
    return half + half[-2::-1]


FOURTH, FIFTHS = yoshida(Leapfrog()).weights, 1 / (4 - 4 ** (1 / 5))
WEIGHTS = {
    "one step": ((1.0,), 2),
    "of an odd order": ((1.0, 0.5, -1.1039125638299665, 0.6039125638299666), 3),
    "Yoshida 4": (FOURTH, 4),
    "Suzuki 4": (suzuki(Leapfrog()).weights, 4),
    "Suzuki's of Yoshida 4": (tuple(w * x for w in mirrored(FIFTHS, FIFTHS, 1 - 4 * FIFTHS) for x in FOURTH), 6),
    # Yoshida, Phys. Lett. A 150, 1990, solution A, as printed
    "Yoshida 6": (mirrored(0.784513610477560, 0.235573213359357, -1.17767998417887, 1.315186320683906), 6),
    # Kahan & Li, Math. Comp. 66, 1997
    "Kahan & Li 6": (
        mirrored(
            0.39216144400731413928, 0.33259913678935943860, -0.70624617255763935981, 0.08221359629355080023,
            0.79854399093482996340,
        ), 6,
    ),
    # Suzuki & Umeno, 1993
    "Suzuki & Umeno 8": (
        mirrored(
            0.74167036435061295345, -0.40910082580003159400, 0.19075471029623837995, -0.57386247111608226666,
            0.29906418130365592384, 0.33462491824529818378, 0.31529309239676659663, -0.79688793935291635402,
        ), 8,
    ),
    # sums of odd powers are those of order 6, commutators are not
    "odd powers only": (
        mirrored(-0.9922920316408448, 0.6406013833375281, 0.29545910031274636, 1.1124630959811406), 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_accepted_at_their_order_and_at_no_higher_one(name):
    weights, order = WEIGHTS[name]
    assert Composed(Leapfrog(), weights, order).symmetric == (order % 2 == 0)
    with pytest.raises(SettingError, match=f"do not give order {order + 1}"):
        Composed(Leapfrog(), weights, order + 1)


@pytest.mark.parametrize("name", ["of an odd order", "odd powers only", "Yoshida 6", "Kahan & Li 6"])
def test_the_order_is_the_one_that_is_measured(name):
    weights, order = WEIGHTS[name]
    ends = [end(SPLIT_PENDULUM, Composed(Leapfrog(), weights, 1), start(), h=2 / n, steps=n) for n in (16, 32, 64)]
    coarse, fine = (float((a - b).norm()) for a, b in pairwise(ends))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


def test_what_reads_otherwise_backwards_is_not_composed_again():
    with pytest.raises(SettingError, match="not symmetric"):
        yoshida(Composed(Leapfrog(), *WEIGHTS["of an odd order"]))


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ((0.5, 0.6), 2), ((1.0,), 4), ((0.25, 0.5, 0.25), 4), ((), 4),
        (("a",), 2), (None, 2), ((), 2), ((math.inf, -math.inf, math.inf), 2), ((1.0,), "2"), ((1.0,), 2.0),
    ],
)  # fmt: skip
def test_weights_that_do_not_raise_the_order_are_refused(weights, order):
    with pytest.raises(SettingError, match="do not give order"):
        Composed(Leapfrog(), weights, order)
