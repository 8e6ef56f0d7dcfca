"""Inner products of long vectors in single precision."""

import math

import pytest
import torch

from eom.calculus.inner import CACHED, FEW, coordinates, dot, norm
from eom.calculus.spectrum import lanczos

N = 3_000_000
DOUBLE = CACHED * 2**-53  # at most, of that many additions
SINGLE = FEW**0.5 * 2**-24  # of a random walk of that many roundings


@pytest.mark.parametrize("n", [0, 1, CACHED, CACHED + 1, N])
def test_they_are_right_to_the_digits_of_what_is_added_up(n):
    """All of one sign, so that what is added gets small beside the sum."""
    x, y = 1 + torch.rand(2, n, dtype=torch.float32)
    exact = [math.fsum((a.double() * y.double()).tolist()) for a in (x, y)]
    assert dot(x, y).item() == pytest.approx(exact[0], rel=DOUBLE)
    assert norm(y).item() == pytest.approx(exact[1] ** 0.5, rel=DOUBLE)
    assert coordinates(torch.stack([x, y]), y).tolist() == pytest.approx(exact, rel=SINGLE)


def test_eigenvalues_of_a_large_operator_in_single_precision_are_right():
    """From a start whose products with the operator are all of one sign."""
    diagonal = torch.rand(N, dtype=torch.float32)
    diagonal[:5] = torch.tensor([10.0, 8.0, 6.0, 5.0, 4.0])
    found = lanczos(lambda v: diagonal * v, torch.ones_like(diagonal), 2, rtol=1e-5, steps=60, room=8)
    assert found.eigenvalues.tolist() == pytest.approx([10, 8], rel=1e-5)
    assert [norm(v).item() for v in found.vectors] == pytest.approx([1, 1], rel=1e-5)
