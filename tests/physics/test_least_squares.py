"""Last layers in closed form: the least squares, in any units and floats."""

import dataclasses
import math

import pytest
import torch
from known_laws import WIDE, spring_data
from torch import Tensor, nn

from eom import physics
from eom.errors import (
    SettingError,
)
from eom.physics import data_sets
from eom.physics.checkpoint import copied


def test_the_last_layer_is_found_exactly_whatever_the_others_are():
    """A cubic energy in the span of random features of as many data; then the residual is rounding."""
    torch.manual_seed(0)
    data = data_sets.solitons(12, 4.0, steps=4).draw(4, seed=0, by_scheme=True)
    structure = data_sets.solitons(12, 4.0).system.structure
    energy = physics.GridEnergy((12,), 80, cell=1 / 3, unit=4.0, step=2.0)
    model = physics.energy_model(12, energy, structure).double()
    left = physics.solve_linear(model, data, [energy.last.weight])
    assert left == pytest.approx(float(physics.mean_square(model, data.windows()).detach()), rel=1e-6)
    rates = float((data.states.diff(dim=1) / 1e-3).square().sum(-1).mean())
    assert left < 1e-6 * rates
    gradient = torch.autograd.grad(physics.mean_square(model, data.windows()), energy.last.weight)[0]
    energy.last.weight.data.mul_(1.01)  # no better beside it
    assert float(physics.mean_square(model, data.windows()).detach()) > left
    away = torch.autograd.grad(physics.mean_square(model, data.windows()), energy.last.weight)[0]
    assert float(gradient.norm()) < 1e-4 * float(away.norm())


class InUnits(nn.Module):
    """A last layer of the squares of states in units of ``unit``."""

    def __init__(self, unit: float):
        super().__init__()
        self.unit, self.last = unit, nn.Linear(2, 1)

    def forward(self, u: Tensor) -> Tensor:
        return self.last((u / self.unit) ** 2)


@pytest.mark.parametrize("unit", [1e-7, 1e5, 1e9])
def test_the_last_layer_has_its_digits_in_any_units(unit):
    """Of H = q^2 + p^2, whose midpoint step turns by 2 atan(h) in place of 2 h."""
    data, energy = spring_data(), InUnits(unit)
    data = dataclasses.replace(data, states=unit * data.states, slopes=None)
    physics.solve_linear(physics.energy_model(2, energy).double(), data, [energy.last.weight])
    h = float(data.times[0, 1])
    wanted = torch.full((1, 2), math.tan(h) / h, dtype=WIDE)
    torch.testing.assert_close(energy.last.weight.detach() / unit**2, wanted, rtol=1e-12, atol=0)


def test_a_wide_last_layer_is_found_in_float32_as_in_float64_without_what_its_floats_lose():
    """Columns known to eps say of singular values beyond ``width`` eps what they are to a share 1 / width."""
    width, left = 50, []
    for dtype, rcond in ((torch.float32, 0.0), (WIDE, 50 * torch.finfo(torch.float32).eps)):
        torch.manual_seed(0)
        model = physics.energy_model(2, physics.dense(2, 1, width)).to(dtype)
        last = [model.get_parameter("field.energy.4.weight")]
        left.append(physics.solve_linear(model, spring_data(noise=0.1), last, rcond=rcond))
    assert left[0] == pytest.approx(left[1], rel=1 / width)


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["0.weight"], {}, "not affine in these parameters: give those of the last layer"),
        (["0.weight", "4.weight"], {}, "not affine"),
        (["4.bias"], {}, "do not depend on these parameters, .*: give the weights too"),
        (["4.weight"], {"rcond": math.nan}, "rcond is nan, expected a share .*: 0 or more, below 1"),
        (["4.weight"], {"rcond": 2}, "rcond is 2"),
    ],
    ids=["first layer", "two layers", "constant", "NaN", "all"],
)
def test_what_is_no_linear_problem_is_refused_and_nothing_is_changed(names, settings, message):
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    before = copied(model)
    with pytest.raises(SettingError, match=message):
        physics.solve_linear(
            model, spring_data(), [model.get_parameter(f"field.energy.{name}") for name in names], **settings
        )
    torch.testing.assert_close(copied(model), before, rtol=0, atol=0)


def test_the_last_layer_is_found_with_its_bias_too():
    torch.manual_seed(0)
    model = physics.energy_model(2, physics.dense(2, 1, 8)).double()
    last = [model.get_parameter(f"field.energy.4.{name}") for name in ("weight", "bias")]
    both = physics.solve_linear(model, spring_data(), last)
    assert both == physics.solve_linear(model, spring_data(), last[:1])


def test_a_hidden_layer_is_refused_where_kinks_are_beyond_what_was_tried():
    """Below a last layer of large weights it looks affine about zero, and would leave more than was there before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 30), nn.Softplus(), nn.Linear(30, 1))
    model, data = physics.energy_model(2, net).double(), data_sets.springs().draw(20, seed=0)
    hidden, last = net[0].weight, net[2].weight
    assert isinstance(hidden, Tensor)
    assert isinstance(last, Tensor)
    left, before = physics.solve_linear(model, data, [last]), hidden.detach().clone()
    with pytest.raises(SettingError, match="not affine"):
        physics.solve_linear(model, data, [hidden])
    assert torch.equal(hidden, before)
    assert physics.solve_linear(model, data, [last]) == pytest.approx(left, rel=1e-6)
