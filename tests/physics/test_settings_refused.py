"""Models, data sets and steppers with settings out of their range are refused where they are made."""

import math

import pytest
import torch
from known_laws import spring_data
from torch import Tensor, nn

from eom import physics
from eom.errors import DataError, SettingError
from eom.physics import LearnedSystem

FIELD = physics.PlainField(nn.Linear(2, 2))


class Upwards(nn.Module):
    """G = 1."""

    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.ones(()))

    def forward(self, g: Tensor) -> Tensor:
        return self.size * g


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.energy_model(1), "size is 1, expected positions and as many"),
        (lambda: physics.symplectic_network(1), "size is 1, expected positions and as many"),
        (lambda: physics.second_order_ode(1), "size is 1, expected positions and as many"),
        (lambda: physics.neural_ode(0, nn.Identity()), "size is 0, expected a whole number of entries"),
        (lambda: physics.energy_model(64, physics.GridEnergy((50,))), r"a multiple of the points of the grid \(50,\)"),
        (lambda: physics.energy_model(100, physics.GridEnergy((50,))), "size is 100, .* of states of 50 entries"),
        (lambda: physics.energy_model(2, None, lambda g: g), "neither skew nor negative semidefinite: .* another sign"),
        (lambda: physics.energy_model(2, None, Upwards().requires_grad_(False)), "neither skew nor negative semidef"),
        (lambda: physics.DissipativeKernel((16,), scale=-1.0), r"scale is -1\.0, expected positive"),
        (lambda: physics.SkewKernel((16,), scale=0.0), r"scale is 0\.0, expected a finite number other than 0"),
        (lambda: physics.DataSet(None, None, [0.0, 1.0]), "the system is a NoneType, expected one such as pendulum"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.GridEnergy((16,), width=0), "width is 0, expected 1 or more"),
        (lambda: physics.GridEnergy((16,), cell=-1.0), r"cell is -1\.0, expected positive"),
        (lambda: physics.dense(2, 0), "inputs, outputs, width are 2, 0, 100; expected whole numbers"),
        (lambda: physics.energy_model(2, None, lambda g: g[:, :1]), r"maps \[32, 2\] to \[32, 1\]"),
        (lambda: physics.energy_model(2, None, lambda g: None), r"maps \[32, 2\] to a NoneType"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.neural_ode(2, "abc"), "net is 'abc', expected a function"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.second_order_ode(2, nn.Linear), "net is <class .*Linear'>, expected a function"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.lagrangian_network(2, "abc"), "net is 'abc', expected a function"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.latent_model(4, physics.energy_model(2), "x"), "encode is 'x', expected a function"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.symplectic_network(2, nn.Linear(1, 1)), r"net is Linear\(.*\), expected a function of sizes"),  # type: ignore[arg-type] - as a user may
        (lambda: LearnedSystem(2, None, physics.midpoint, physics.RK4()), "the field is a NoneType, expected a module"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.SkewKernel((16,), 1), "width is 1, and a kernel less itself reversed is 0"),
        (lambda: physics.DissipativeKernel((16,), 1), "width is 1, and a kernel that sums to zero is 0"),
        (
            lambda: physics.ErrorsInVariables("x", spring_data(), window=1, stride=1),  # type: ignore[arg-type] - as a user may
            "the rule is 'x', expected a function of field and window",
        ),
        (
            lambda: LearnedSystem(2, FIELD, physics.Shooting, physics.RK4()),  # type: ignore[arg-type] - as a user may
            "the rule is 'Shooting', expected a function of field and window",
        ),
        (
            lambda: LearnedSystem(2, FIELD, physics.midpoint, physics.RK4),  # type: ignore[arg-type] - as a user may
            r"the stepper is 'RK4', expected one, such as RK4\(\)",
        ),
    ],
    ids=[
        "one entry",
        "half of one",
        "no force",
        "nothing",
        "grid",
        "fields",
        "rising",
        "frozen",
        "scale",
        "no scale",
        "no system",
        "width",
        "cell",
        "dense",
        "narrow",
        "none",
        "net",
        "class of a net",
        "Lagrangian",
        "code",
        "net for sizes",
        "no field",
        "skew kernel",
        "dissipative kernel",
        "rule of states",
        "rule",
        "stepper",
    ],
)
def test_models_that_make_no_sense_are_not_built(make, message):
    with pytest.raises(SettingError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: physics.data_sets.springs().draw(0, 0), "count is 0"),
        (lambda: physics.data_sets.springs(noise=-1.0).draw(1, 0), r"noise is -1\.0"),
        (lambda: physics.data_sets.springs("a"), "span is 'a', expected positive"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.data_sets.pendulums(points=2.5), r"points is 2\.5"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.data_sets.solitons(steps=-1), "steps is -1"),
        (lambda: physics.data_sets.solitons(dt=0.0), r"dt is 0\.0"),
        (lambda: physics.data_sets.chains(0), "masses is 0"),
        (lambda: physics.data_sets.springs().exact(1.5, 0), r"count is 1\.5"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.data_sets.springs().exact(1, "a"), "seed is 'a'"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.data_sets.springs().exact(1, 0, [0.0, math.nan]), "among the times are not finite"),
        (lambda: physics.data_sets.springs().exact(1, 0, 1.0), r"times have shape \[\], expected \[s\] or \[1, s\]"),
        (lambda: spring_data().windows(1, 0), ", 0 points apart"),
        (lambda: spring_data().windows(1.5), r"windows of 1\.5 steps"),  # type: ignore[arg-type] - as a user may
        (lambda: spring_data().select([]), r"shape \[0, 30, 2\]"),
        (lambda: spring_data().select([7]), r"chosen are \[7\] of 4 trajectories, expected numbers of 0 to 3"),
        (lambda: spring_data().select([1.5]), r"chosen are \[1\.5\]"),  # type: ignore[list-item] - as a user may
        (lambda: physics.Shooting(physics.RK4), "the stepper is 'RK4', expected one"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.Shooting(physics.Leapfrog), "the stepper is 'Leapfrog', expected one"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.Adaptive(method="rk4"), "method is 'rk4', expected one that adapts its steps: dopri5, dopri8"),
        (lambda: physics.Adaptive(method="foo"), "method is 'foo'"),
        (lambda: physics.Adaptive(-1.0), r"rtol is -1\.0, expected numbers between 0 and 1"),
        (lambda: physics.Adaptive(atol=-1.0), r"atol is -1\.0, expected a finite number of 0 or more"),
        (lambda: physics.Adaptive(max_steps=0), "max_steps is 0, expected 1 or more"),
        (lambda: physics.yoshida(physics.Adaptive()), "is not symmetric: compose Leapfrog"),
        (lambda: physics.Friction(2, -1.0), r"start is -1\.0, expected positive and finite"),
        (lambda: physics.Friction(3), "size is 3, expected positions and as many"),
        (lambda: physics.FreeMatrix(-1), "size is -1"),
        (lambda: physics.FreeKernel((8,), -1), "width is -1, expected 1 or more"),
        (lambda: physics.FreeKernel((8,), 3.0), r"width is 3\.0"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.SkewKernel((8, 4), 5), r"stencil is 5 points wide on a grid \(8, 4\), expected one"),
        (lambda: physics.DissipativeKernel((8,), 0), "width is 0"),
        (lambda: physics.DissipativeKernel((8,), 5), "stencil is 9 points wide"),
        (lambda: physics.FreeKernel((8, 8, 8)), "expected one or two axes"),
        (lambda: physics.FreeKernel(8), "grid is 8, expected the points along each axis"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.spring().simulate(torch.ones(0, 2), h=0.1, steps=1), r"shape \[0, 2\]"),
        (lambda: physics.ErrorsInVariables(physics.midpoint, spring_data(), window=1, stride=1, weight=0.0), "weight"),
        (lambda: physics.MeanValue(0), "points is 0"),
        (lambda: physics.energy_model(2, 3), "energy is 3, expected a function of states"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.GridEnergy((2.5,)), r"grid is \(2\.5,\)"),  # type: ignore[arg-type] - as a user may
        (lambda: physics.energy_law(lambda g: g**2, 2), "not linear"),
    ],
    ids=[
        "no trajectory", "noise", "span", "points", "steps", "time step", "masses",
        "half a trajectory", "no seed", "no time", "one time", "stride",
        "window", "none chosen", "chosen beyond", "chosen between",
        "stepper not made", "stepper's class", "fixed steps", "no method", "rtol", "atol", "no steps",
        "composed", "driving", "odd", "matrix", "width below 0",
        "width as float", "wider than a grid", "no width", "stencil", "three axes", "grid as a number",
        "no state", "weight", "mean value", "no energy", "grid", "not linear",
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(make, message):
    with pytest.raises((SettingError, DataError), match=message):
        make()
