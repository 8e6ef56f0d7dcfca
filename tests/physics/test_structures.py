"""Learned structures: the laws they keep by construction, and their stencils."""

import itertools
import math

import pytest
import torch
from torch import nn

from eom import physics
from eom.errors import SettingError
from eom.physics.systems import rotate

WIDE = torch.float64


def test_structures_keep_the_laws_they_promise():
    torch.manual_seed(0)
    grid = (8, 8)
    laws = {
        "conserves": [physics.SkewKernel((16,)), physics.SkewKernel(grid), rotate],
        "dissipates": [
            physics.DissipativeKernel((16,)),
            physics.DissipativeKernel(grid),
            physics.Friction(4),
            physics.DissipativeMatrix(4),
        ],
        None: [physics.FreeKernel((16,)), physics.FreeKernel(grid), physics.FreeMatrix(4)],
    }
    for law, structures in laws.items():
        for structure in structures:
            structure = structure.double() if isinstance(structure, nn.Module) else structure
            size = math.prod(getattr(structure, "grid", (4,)))
            assert physics.energy_law(structure, size) == law


def test_a_dissipative_matrix_starts_near_positions_and_momenta_if_there_are_both():
    torch.manual_seed(0)
    g = torch.eye(4)
    near = physics.DissipativeMatrix(4)
    torch.testing.assert_close(near(g), rotate(g), rtol=0, atol=0.5)
    assert near.turning.is_contiguous()  # as optimizers want it
    assert float(physics.DissipativeMatrix(3)(torch.eye(3)).detach().abs().max()) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 6, 7])
def test_friction_is_learned_with_a_dissipative_matrix(seed):
    """From starts of a random sign -H was learned with these seeds, without friction: a state error of .040."""
    spring, data_set = physics.spring(0.2), physics.data_sets.damped_springs
    torch.manual_seed(seed)
    model = physics.energy_model(2, physics.dense(2, 1, 20), physics.DissipativeMatrix(2)).double()
    lbfgs = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=150)
    physics.fit(model, data_set(noise=0.0).draw(10, seed=0), optimizer=lbfgs, steps=1)
    test = data_set(span=9.0, points=90).exact(20, seed=1)
    assert physics.compare_energies(model, spring, test.states.flatten(0, 1)).scale > 0
    assert physics.evaluate(model, spring, test).state < 0.040 / 100


@pytest.mark.parametrize("grid", [(16,), (8, 8)], ids=["one dimension", "two dimensions"])
def test_guaranteed_kernels_keep_mass_and_are_symmetric(grid):
    torch.manual_seed(0)
    kernel = physics.DissipativeKernel(grid).double().kernel.detach()
    assert abs(float(kernel.sum())) < 1e-14
    torch.testing.assert_close(kernel, kernel.flip(tuple(range(kernel.ndim))), rtol=1e-13, atol=1e-15)


def test_a_kernel_weighs_neighbours_as_its_stencil_says():
    torch.manual_seed(0)
    for grid in ((7,), (5, 7)):
        free = physics.FreeKernel(grid, scale=2.0).double()
        g = torch.randn(3, math.prod(grid), dtype=WIDE)
        wide, kernel = g.unflatten(-1, grid), free.kernel.detach()
        axes = tuple(range(1, wide.ndim))
        by_hand = sum(
            kernel[at] * wide.roll([1 - k for k in at], axes) for at in itertools.product(range(3), repeat=len(grid))
        )
        torch.testing.assert_close(free(g).detach(), torch.as_tensor(by_hand).flatten(1), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("energy", "structure"),
    [
        (lambda: physics.GridEnergy((64,)), lambda: physics.SkewKernel((8, 8))),
        (lambda: physics.GridEnergy((4, 16)), lambda: physics.SkewKernel((16, 4))),
        (lambda: physics.GridEnergy((32,), fields=2), lambda: physics.DissipativeKernel((32,))),
        (lambda: physics.dense(64, 1), lambda: physics.FreeKernel((8, 4))),
    ],
    ids=["a line and a square", "turned", "two fields", "no grid"],
)
def test_an_energy_and_a_structure_on_other_grids_are_refused(energy, structure):
    with pytest.raises(SettingError, match=r"the structure is of one field on the grid .*, and the energy of .* 64"):
        physics.energy_model(64, energy(), structure())


def test_two_fields_on_a_grid_turn_into_each_other_without_a_kernel():
    model = physics.energy_model(16, physics.GridEnergy((8,), fields=2))
    assert model(torch.randn(3, 16)).shape == (3, 16)
