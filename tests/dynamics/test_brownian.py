"""Brownian paths: one path for a seed, on every grid."""

from itertools import islice

import pytest
import torch

from eom.dynamics.brownian import Brownian, Interval, Place
from eom.errors import SettingError


def pieces(path: Brownian, h: float, count: int, batch: int = 3, channels: int = 2) -> list[Interval]:
    def walk():
        place, y = Place(), torch.zeros(batch, 5)
        while True:
            piece, place = path.next(place, h, y, channels)
            yield piece

    return list(islice(walk(), count))


def areas(path: Brownian, found: list[Interval], h: float) -> torch.Tensor:
    return torch.stack([path.area(piece, h) for piece in found])


@pytest.mark.parametrize("level", [1, 4])
def test_a_finer_grid_lies_on_the_same_path(level):
    """Increments add up, and so do the integrals of the path."""
    coarse, fine = Brownian(7), Brownian(7).refined(level)
    parts, h = 2**level, 0.5 / 2**level
    whole, small = pieces(coarse, 0.5, 3), pieces(fine, h, 3 * parts)
    for k, piece in enumerate(whole):
        mine = small[k * parts : (k + 1) * parts]
        steps = torch.stack([x.w for x in mine])
        torch.testing.assert_close(steps.sum(0), piece.w, rtol=0, atol=1e-14)
        before = steps.cumsum(0) - steps
        integral = (h * (before + steps / 2 + areas(fine, mine, h))).sum(0)
        torch.testing.assert_close(integral, 0.5 * (piece.w / 2 + coarse.area(piece, 0.5)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("level", [0, 3])
def test_increments_and_areas_are_independent_normal_numbers(level):
    """Mean, covariance and fourth moment within five standard errors of those of (W_h, A), h and h / 12."""
    h, n = 0.25, 1 << 14
    path = Brownian(1, level)
    found = pieces(path, h, 8, batch=n // 8, channels=1)
    w = torch.cat([x.w for x in found])[:, 0] / h**0.5
    a = areas(path, found, h).reshape(-1) / (h / 12) ** 0.5
    for value, expected, spread in [
        *((w.mean(), 0, 1), (a.mean(), 0, 1), ((w * a).mean(), 0, 1), ((w[:-1] * w[1:]).mean(), 0, 1)),
        *(((w**2).mean(), 1, 2**0.5), ((a**2).mean(), 1, 2**0.5), ((w**4).mean(), 3, 96**0.5)),
    ]:
        assert abs(float(value) - expected) < 5 * spread / n**0.5


def test_neighbouring_intervals_of_a_fine_grid_are_independent():
    found = torch.stack([x.w for x in pieces(Brownian(2, 5), 1.0, 32, batch=4000, channels=1)])[..., 0]
    correlation = found @ found.T / 4000 - torch.eye(32)
    assert float(correlation.abs().max()) < 5 * (2 / 4000) ** 0.5


def test_a_path_is_the_same_each_time_and_another_for_another_seed():
    one, again, other = (pieces(Brownian(seed), 1.0, 4)[3].w for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.isclose(one, other).any()


def test_what_waits_grows_with_the_level_alone():
    path, place, y = Brownian(0, 10), Place(), torch.zeros(1, 1)
    for _ in range(3000):
        _, place = path.next(place, 1e-3, y, 1)
        assert len(place.waiting) <= 10


@pytest.mark.parametrize("given", [{"seed": -1}, {"seed": 0.5}, {"level": 61}, {"seed": 2**64}, {"level": True}])
def test_a_path_takes_whole_numbers(given):
    with pytest.raises(SettingError, match="expected a whole number from 0 to"):
        Brownian(**given)
