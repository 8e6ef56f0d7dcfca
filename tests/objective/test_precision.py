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


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.randn_like(x),
        lambda x: torch.normal(x, 1.0),
        lambda x: torch.normal(mean=x, std=x.abs()),
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: torch.empty_like(x).normal_(),
        lambda x: x.new_empty(16, 3).uniform_(-1, 1),
        lambda x: torch.empty_like(x).bernoulli_(x.sigmoid()),
        lambda x: torch.distributions.Normal(x, x.exp()).rsample(),
        lambda x: torch.rand(16, 3, dtype=x.dtype),
        lambda x: torch.zeros(16, 6, dtype=x.dtype)[:, ::2].normal_(),
        lambda x: F.gumbel_softmax(x),
        lambda x: F.dropout(x),
    ],
)
def test_random_numbers_are_the_same_in_every_precision(draw):
    """Though torch draws others in double precision: a variational autoencoder would be another function."""
    model = nn.Linear(4, 3, dtype=torch.float32)
    objective = Objective(model, lambda m, b: (m(b) * draw(m(b))).square().mean(), randn(16, 4).float())
    theta = objective.theta()
    torch.testing.assert_close(objective.loss(theta.double()).float(), objective.loss(theta), rtol=1e-5, atol=0)
    assert objective.check().dtype == "float64"


def test_a_loss_that_is_another_one_in_double_precision_is_probed_in_its_own():
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean() * (1 if batch.dtype == torch.float32 else 2)

    check = Objective(nn.Linear(4, 3, dtype=torch.float32), loss, randn(16, 4).float()).check()
    assert check.dtype == "float32"
    assert any("in float64 the loss is another number" in p.check for p in check.probes)


def test_frozen_parameters_and_buffers_follow_the_precision_of_theta():
    objective = Objective(seeded(Strange), cross_entropy, (classes(8, 5, seed=1), classes(8, 5, seed=2)))
    objective.model.float()
    theta = objective.theta().double()
    fresh = Objective(objective.model, cross_entropy, objective.batches.first)
    assert fresh.gradient(theta).dtype == torch.float64
    assert fresh.check(2).dtype == "float64"
