"""An order is stated where a power of h describes the errors, and nowhere else."""

import math

import pytest

from eom.dynamics.order import Ladder, ladder
from eom.errors import SettingError

STEPS = [2.0**-k for k in range(1, 8)]


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
def test_the_power_is_found_behind_the_next_term(p):
    found = ladder(lambda h: -0.3 * h**p * (1 + 0.7 * h), STEPS)
    assert found.order == pytest.approx(p, abs=0.01)
    assert found.interval is not None
    assert found.interval < 0.05


def test_where_the_error_crosses_zero_its_neighbours_do_not_count():
    """h - 4.5 h^2 crosses between two steps: the slopes beside that are 3.8 and -2.0."""
    found = ladder(lambda h: h - 4.5 * h**2, STEPS)
    assert math.isnan(found.slopes[1])
    assert max(found.slopes[2:]) < 1
    assert found.window == 3
    assert found.order == pytest.approx(1, abs=0.05)
    late = ladder(lambda h: h - 70 * h**2, STEPS)
    assert late.order is None
    assert late.reason == "the error crosses zero at the finest steps"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda h: 0.1, "does not fall with the step"),
        (lambda h: 0.1 + h, "tends to a constant"),
        (lambda h: 0.01 + h, "have not settled"),
        (lambda h: (h, h), "not larger than four times its bar"),
        (lambda h: 0.0, "not larger than four times its bar"),
        (lambda h: math.nan, "not larger than four times its bar"),
        (lambda h: 0.1 / h, "does not fall with the step"),
    ],
)
def test_what_has_no_order_says_why(error, reason):
    found = ladder(error, STEPS)
    assert found.order is None
    assert found.interval is None
    assert reason in found.reason
    assert f"no order: {found.reason}" in str(found)


def test_bars_widen_the_interval():
    sharp = Ladder((0.4, 0.2, 0.1), (0.16, 0.04, 0.01), (0.0, 0.0, 0.0))
    blunt = Ladder((0.4, 0.2, 0.1), (0.16, 0.04, 0.01), (0.002, 0.001, 0.0005))
    assert sharp.order == pytest.approx(2, abs=1e-12)
    assert blunt.order == sharp.order
    assert blunt.interval is not None
    assert blunt.interval > 0.05 > (sharp.interval or 0)


def test_steps_beyond_the_rounding_are_left_out_by_their_bars():
    found = Ladder((0.4, 0.2, 0.1, 0.05), (0.16, 0.04, 0.01, 0.001), (1e-3,) * 4)
    assert found.order is None


@pytest.mark.parametrize("hs", [[], [0.1, 0.2], [0.1, 0.1, 0.1, 0.2], [0.1, 0.2, -0.4], [0.1, 0.2, math.inf]])
def test_a_ladder_takes_three_positive_steps(hs):
    with pytest.raises(SettingError, match="expected 3 or more different positive steps"):
        ladder(lambda h: h, hs)
