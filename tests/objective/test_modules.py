"""H v and T on every row of the table of modules, against differences that share no code with them; or refused."""

import warnings
from collections.abc import Callable
from functools import cache

import pytest
import torch
from awkward import Attention, Checkpointed
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import LOST, NO_THIRD, REFUSED, RIGHT, Apply, Case, energy
from problems import randn, seeded
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from eom.errors import EomError, EomWarning, LossNotDifferentiableError
from eom.objective import Objective

Make = Callable[[], Case]


def objective_of(make: Make) -> Objective:
    """The objective of a case, with torch's generator at a seed that ``gradient`` sets as well."""
    case = make()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Objective(case.model, case.loss, case.batch)


def gradient(make: Make, theta: Tensor) -> Tensor:
    """[n] by torch's backward pass alone, on a new model that holds ``theta``."""
    case = make()
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for p, x in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
            p.copy_(x.view_as(p))
        with torch.enable_grad():
            case.loss(case.model, case.batch).backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def extrapolated(difference: Callable[[float], Tensor], steps: list[float]) -> list[Tensor]:
    """Differences of second order with their leading error removed, over several steps."""
    return [(4 * difference(e / 2) - difference(e)) / 3 for e in steps]


def error(x: Tensor, references: list[Tensor], scale: Tensor) -> float:
    """Relative to the reference nearest by: rounding spoils the short steps, kinks and curvature the long ones."""
    return min(float((x - r).norm() / (r.norm() + 1e-3 * scale.norm())) for r in references)


@cache
def second(make: Make) -> tuple[Objective, Tensor, Tensor, list[Tensor]]:
    """Objective, theta, a direction, and H v by differences."""
    objective = objective_of(make)
    theta = objective.theta()
    v = randn(len(theta), seed=3)
    v = v / v.norm()

    def central(e: float) -> Tensor:
        return (gradient(make, theta + e * v) - gradient(make, theta - e * v)) / (2 * e)

    return objective, theta, v, extrapolated(central, [1e-3, 1e-4, 1e-5])


def third(make: Make) -> list[Tensor]:
    """T(v, v) by differences."""
    _, theta, v, _ = second(make)
    g = gradient(make, theta)

    def curvature(e: float) -> Tensor:
        return (gradient(make, theta + e * v) - 2 * g + gradient(make, theta - e * v)) / e**2

    return extrapolated(curvature, [3e-3, 3e-4, 1e-4, 3e-5])


@pytest.mark.parametrize("make", (RIGHT | NO_THIRD).values(), ids=RIGHT | NO_THIRD)
def test_hessian_products_are_right(make):
    objective, theta, v, references = second(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EomWarning)  # as a route that is not double backward would give
        found = objective.hvp(theta, v)
    assert error(found, references, gradient(make, theta)) < 1e-6


def third_rows() -> list:
    """Those whose third derivatives torch has at stake by default, all of them among the slow tests."""
    stake = ("norm", "Norm", "ttention", "Transformer", "torch.", "Embedding", "check", "autograd", "Transpose", "dist")
    some = [name for name in RIGHT if any(part in name for part in (*stake, "ctc", "LSTM", "GELU", "weights", "ReLU"))]
    return [pytest.param(m, id=k, marks=[] if k in some else pytest.mark.slow) for k, m in RIGHT.items()]


@pytest.mark.parametrize("make", third_rows())
def test_third_derivatives_are_right(make):
    objective, theta, v, _ = second(make)
    assert error(objective.third(theta, v, v), third(make), gradient(make, theta)) < 1e-4


@pytest.mark.parametrize("make", LOST.values(), ids=LOST)
def test_where_autograd_has_no_second_derivative_differences_are_taken_with_a_warning(make):
    objective, theta, v, references = second(make)
    with pytest.warns(EomWarning, match="differences of gradients"):
        found = objective.hvp(theta, v)
    assert error(found, references, gradient(make, theta)) < 1e-6


@pytest.mark.filterwarnings("ignore::eom.errors.EomWarning")
@pytest.mark.parametrize("make", (LOST | NO_THIRD).values(), ids=LOST | NO_THIRD)
def test_third_derivatives_that_are_wrong_or_missing_are_refused_with_the_way_out(make):
    objective, theta, v, _ = second(make)
    with pytest.raises(LossNotDifferentiableError, match="log-map"):
        objective.third(theta, v, v)


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_hessian_is_refused_by_name_with_the_way_out(make, message):
    def product() -> Tensor:
        objective = objective_of(make)
        return objective.hvp(objective.theta(), objective.theta())

    with pytest.raises(EomError, match=message):
        product()


def test_the_table_is_long_enough():
    assert len(RIGHT | LOST | NO_THIRD | REFUSED) >= 45


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 8),
    "bilinear": lambda: Apply(lambda x: x * x.roll(1, 1)),
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "softmax": lambda: nn.Softmax(-1),
    "hardsigmoid": nn.Hardsigmoid,
    "layer norm": lambda: nn.LayerNorm(8),
    "batch norm": lambda: nn.BatchNorm1d(8),
    "rms norm": lambda: nn.RMSNorm(8),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "instance norm": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "dropout": nn.Dropout,
    "attention": lambda: nn.Sequential(nn.Unflatten(1, (1, 8)), Attention(), nn.Flatten()),
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
    "checkpoint": lambda: Checkpointed(False),
}


@settings(max_examples=8)
@given(st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=4), st.integers(3, 9), st.integers(0, 10**6))
def test_any_composition_of_layers_has_right_derivatives(names, samples, seed):
    """Reads also the swapped operations inside each other's derivatives."""

    def make() -> Case:
        layers = lambda: nn.Sequential(nn.Linear(6, 8), *(LAYERS[n]() for n in names), nn.Linear(8, 3))  # noqa: E731
        return Case(seeded(layers, seed), energy, randn(samples, 6, seed=seed))

    objective, theta, v, references = second(make)
    scale = gradient(make, theta)
    assert error(objective.hvp(theta, v), references, scale) < 1e-6
    assert error(objective.third(theta, v, v), third(make), scale) < 1e-4
