"""What periodic grids do not hold, and what is no edge of them."""

import pytest
import torch
from torch import nn

from eom.errors import DataError
from eom.physics import data_sets
from eom.physics.limits import require_energy, require_periodic

WIDE = torch.float64


TWO = torch.tensor([[0.3, -0.7], [0.9, 0.2]])


@pytest.mark.parametrize("kind", [torch.float32, WIDE], ids=["single", "double"])
@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (lambda u: u - u.mean(0), "samples must not see each other"),
        (lambda u: u * torch.rand_like(u), "it draws random numbers"),
    ],
    ids=["batch", "drawn"],
)
def test_small_energies_are_no_rounding(kind, seen, message):
    with pytest.raises(DataError, match=message):
        require_energy(lambda u: 1e-6 * seen(u).square().sum(-1), TWO.to(kind))


@pytest.mark.parametrize("kind", [torch.float32, WIDE], ids=["single", "double"])
def test_an_energy_that_is_rounding_of_large_terms_is_taken(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 1)).to(kind)
    require_energy(
        lambda u: (1e6 + net(u)) - net(u) - 1e6 + (1 - torch.cos(1e-3 * u)).sum(-1, keepdim=True), TWO.to(kind)
    )


def test_one_jump_inside_hides_no_edge_of_other_states():
    states = torch.stack([torch.arange(20.0), 100 * torch.eye(20)[7]])[None]
    with pytest.raises(DataError, match="jump by 19"):
        require_periodic(states, (20,))


def test_whole_numbers_do_not_wrap_around():
    ramp = torch.tensor([[[250, 200, 150, 100, 50, 0]] * 2], dtype=torch.uint8)
    with pytest.raises(DataError, match=r"jump by 250 .* by 50 at most"):
        require_periodic(ramp, (6,))
    require_periodic(torch.tensor([[[0, 50, 100, 100, 50]] * 2], dtype=torch.uint8), (5,))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_point_that_stands_twice_is_told_through_rounding_and_not_from_symmetry(dimensions):
    random = torch.Generator().manual_seed(0)
    u = torch.randn(1, 5, *(9,) * dimensions, dtype=WIDE, generator=random).cumsum(1)
    u[..., -1] = u[..., 0] * (1 + 1e-14)
    for states in (u, (u * (1 + 1e-7 * torch.rand(u.shape, dtype=WIDE, generator=random))).float()):
        with pytest.raises(DataError, match="that point comes once"):
            require_periodic(states.flatten(2), (9,) * dimensions)
    x = torch.linspace(-7.5, 7.5, 65, dtype=WIDE)[:-1]
    pulses = torch.stack([torch.cosh(x - shift) ** -2 for shift in (-0.1, 0.0, 0.1)])[None]
    require_periodic(pulses.float(), (64,))  # whose ends are alike in these floats, and their neighbours too
    mirrored = torch.cat([u, u.flip(-1)], -1) if dimensions == 1 else u + u.flip(-1)
    require_periodic(mirrored.flatten(2), tuple(mirrored.shape[2:]))
    require_periodic(u[:, 0].flatten(1), (9,) * dimensions)  # a single state may have equal ends


@pytest.mark.parametrize(
    "drawn", [data_sets.solitons(), data_sets.separations(), data_sets.separations(24, dimensions=2)],
    ids=["solitons", "phases", "phases, two dimensions"],
)  # fmt: skip
def test_fronts_at_the_seam_are_no_edge(drawn):
    """Every state is turned until its steepest front is there."""
    grid = drawn.system.grid
    u = drawn.starts(20, torch.Generator().manual_seed(0)).unflatten(-1, grid)
    for sharp in (u, torch.where(u > u.mean(), 1.0, -1.0)):
        for one in sharp:
            steepest = int((one - one.roll(-1, -1)).abs().reshape(-1, grid[-1]).amax(0).argmax())
            require_periodic(one.roll(-steepest - 1, -1).reshape(1, 1, -1), grid)
