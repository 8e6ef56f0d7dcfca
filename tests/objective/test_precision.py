"""Evaluations run in the precision of theta."""

import pytest
import torch
from awkward import Strange
from problems import TanhMLP, classes, cross_entropy, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.nn import functional as F

from eom.objective import Objective


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


def test_a_float32_model_is_evaluated_in_float64_where_theta_is():
    model, (x, labels) = tanh_mlp()
    model = model.float()
    objective = Objective(model, cross_entropy, (x.float(), labels))
    theta = objective.theta()
    assert theta.dtype == objective.gradient(theta).dtype == torch.float32
    wide = theta.double()
    reference = seeded(TanhMLP)
    reference.load_state_dict({k: p.double() for k, p in model.state_dict().items()})
    expected = Objective(reference, cross_entropy, (x.float().double(), labels))
    assert torch.equal(objective.gradient(wide), expected.gradient(wide))
    assert torch.equal(objective.hvp(wide, wide), expected.hvp(wide, wide))
    assert objective.model.get_parameter("head.bias").dtype == torch.float32
    assert objective.check().dtype == "float64"


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to(dtype=torch.float32),
        lambda x: x.type(torch.float32),
        lambda x: x * torch.ones(3, dtype=torch.float32).sum() / 3,
        lambda x: F.softmax(x, -1, dtype=torch.float32),
    ],
)
def test_what_is_written_as_single_in_a_single_model_is_double_in_its_double_evaluation(cast):
    """As the rounding of logits in many language models, which would drown every difference."""
    model = nn.Linear(4, 3, dtype=torch.float32)
    objective = Objective(model, lambda m, b: cast(m(b)).square().mean(), randn(16, 4).float())
    check = objective.check(2)
    assert check.dtype == "float64"
    assert check.passed
    assert max(p.value for p in check.probes if p.verdict == "passed") < 1e-6
    assert objective.loss(objective.theta()).dtype == torch.float32


def test_frozen_parameters_and_buffers_follow_the_precision_of_theta():
    objective = Objective(seeded(Strange), cross_entropy, (classes(8, 5, seed=1), classes(8, 5, seed=2)))
    objective.model.float()
    theta = objective.theta().double()
    fresh = Objective(objective.model, cross_entropy, objective.batches.first)
    assert fresh.gradient(theta).dtype == torch.float64
    assert fresh.check(2).dtype == "float64"
