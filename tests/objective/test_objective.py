"""An Objective is the loss of a model as a function of one vector, and leaves the model as it was."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from modules import Single
from problems import NETWORKS, TanhMLP, classes, cross_entropy, network, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from eom.dynamics.field import gradient_flow
from eom.objective import Objective
from eom.objective.parameters import layout_of
from eom.objective.spectrum import sharpness
from eom.testing import check_derivatives

assert_exact = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


def bare(objective: Objective, loss_fn: Callable, batch) -> Callable[[Tensor], Tensor]:
    """theta -> loss, with nothing of the package in it but the order of the parameters."""
    shapes = {k: p.shape for k, p in objective.model.named_parameters() if p.requires_grad}

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([s.numel() for s in shapes.values()])
        state = {k: x.view(s) for (k, s), x in zip(shapes.items(), parts, strict=True)}
        return loss_fn(lambda *xs: functional_call(objective.model, state, xs), batch)

    return loss


# Value and derivatives


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradient_are_those_of_an_ordinary_backward_pass(name):
    objective = network(name)
    model, batch = NETWORKS[name]()
    loss = cross_entropy(model, batch)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore
    theta = objective.theta()
    assert_exact(objective.loss(theta), loss.detach())
    assert_exact(objective.gradient(theta), gradient)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_second_and_third_derivatives_are_those_of_the_dense_hessian(decay):
    objective = network("mlp", decay=decay)
    theta = randn(objective.layout.n, seed=4) / 3
    plain = bare(objective, cross_entropy, objective.batches.first)

    def loss(y: Tensor) -> Tensor:
        return plain(y) + decay * (y @ y) / 2

    u, v = randn(objective.layout.n, seed=1), randn(objective.layout.n, seed=2)
    dense = hessian(loss)(theta)
    assert_exact(objective.hvp(theta, v), dense @ v)
    assert_exact(objective.expansion(theta).hvp(v), dense @ v)
    along = torch.func.jvp(lambda y: hessian(loss)(y) @ v, (theta,), (u,))[1]
    assert_exact(objective.third(theta, u, v), along)


def test_an_expansion_holds_value_gradient_and_product():
    objective = network("cnn", decay=0.1)
    theta, v = objective.theta(), randn(objective.layout.n)
    value, gradient, hvp = objective.expansion(theta)
    assert_exact(value, objective.loss(theta))
    assert_exact(gradient, objective.gradient(theta))
    assert torch.equal(hvp(v), hvp(v))


@pytest.mark.parametrize("batches", [1, 3])
def test_the_difference_route_agrees_with_double_backward_to_the_root_of_rounding(batches):
    model, (x, labels) = tanh_mlp()
    data = (x, labels) if batches == 1 else list(zip(x.chunk(batches), labels.chunk(batches), strict=True))
    theta_of = Objective(model, cross_entropy, data, 0.1)
    differences = Objective(model, cross_entropy, data, 0.1, product="difference")
    theta, v = theta_of.theta(), randn(theta_of.layout.n)
    expected, found = theta_of.expansion(theta), differences.expansion(theta)
    assert_exact(found.value, expected.value)
    assert_exact(found.gradient, expected.gradient)
    assert (found.hvp(v) - expected.hvp(v)).norm() < 1e-6 * expected.hvp(v).norm()


@pytest.mark.parametrize("k", range(1, 6))
def test_sharpness_is_the_largest_eigenvalues_of_the_dense_hessian(k):
    objective = network("mlp", decay=0.1)
    plain = bare(objective, cross_entropy, objective.batches.first)
    dense = torch.linalg.eigvalsh(hessian(lambda y: plain(y) + 0.05 * (y @ y))(objective.theta()))
    found = sharpness(objective, k, rtol=1e-9)
    torch.testing.assert_close(found.eigenvalues, dense.flip(0)[:k], rtol=1e-9, atol=1e-9)
    assert (found.residuals <= 1e-9 * dense.abs().max()).all()


def test_sharpness_may_be_asked_for_elsewhere_and_of_a_plain_function():
    from eom.calculus.products import Function

    objective = network("mlp")
    there = randn(objective.layout.n) / 2
    here = sharpness(objective).eigenvalues
    assert sharpness(objective, theta=there).eigenvalues != here
    bowl = Function(lambda y: (torch.tensor([1.0, 4.0, 2.0]) * y * y).sum() / 2)
    assert sharpness(bowl, 2, theta=torch.ones(3)).eigenvalues.tolist() == pytest.approx([4.0, 2.0], rel=1e-12)


def test_scaled_dot_product_attention_has_second_derivatives():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), is_causal=True)

    objective = Objective(seeded(Attention), squares, randn(2, 1, 5, 4))
    check = check_derivatives(objective, order=2)
    assert check.product == "double-backward"
    assert check.third


# Parameters and the flat vector


class Strange(nn.Module):
    """A tied, a frozen and an unused parameter, and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embed.weight
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.full((4,), 0.5))

    def forward(self, i: Tensor) -> Tensor:
        return self.out(torch.tanh(self.frozen(self.embed(i)) + self.shift))


def strange() -> Objective:
    return Objective(seeded(Strange), cross_entropy, (classes(8, 5, seed=1), classes(8, 5, seed=2)))


def test_a_tied_parameter_stands_once_a_frozen_one_not_at_all():
    objective = strange()
    assert objective.layout.names == ("unused", "embed.weight")
    assert objective.layout.n == 3 + 20


def test_the_gradient_of_a_tied_parameter_is_the_sum_over_its_uses():
    objective = strange()
    cross_entropy(objective.model, objective.batches.first).backward()
    expected = objective.model.get_parameter("embed.weight").grad
    gradient = objective.named(objective.gradient(objective.theta()))
    assert_exact(gradient["embed.weight"], expected)


def test_an_unused_parameter_has_no_gradient_but_its_decay():
    objective = strange()
    theta = objective.theta()
    assert not objective.named(objective.gradient(theta))["unused"].any()
    assert not objective.named(objective.hvp(theta, torch.ones_like(theta)))["unused"].any()
    decayed = Objective(objective.model, cross_entropy, objective.batches.first, 0.5)
    assert decayed.named(decayed.gradient(theta))["unused"].tolist() == [0.5] * 3


def test_the_flat_vector_and_the_named_parameters_are_each_others_inverse():
    objective = network("transformer")
    layout, theta = objective.layout, objective.theta()
    named = objective.named(theta)
    assert list(named) == [k for k, _ in objective.model.named_parameters()]
    for k, p in objective.model.named_parameters():
        assert torch.equal(named[k], p)
        assert torch.equal(theta[layout.indices(k)], p.detach().flatten())
    assert torch.equal(layout.flatten(named.values()), theta)
    assert layout == layout_of(objective.model)


def test_theta_is_a_copy_of_the_present_parameters():
    objective = network("mlp")
    objective.theta().zero_()
    assert objective.theta().any()
    with torch.no_grad():
        objective.model.get_parameter("head.bias").fill_(7.0)
    assert objective.named(objective.theta())["head.bias"].tolist() == [7.0] * 3


# Weight decay


def test_decay_of_one_number_is_half_its_square_norm():
    plain, decayed = network("mlp"), network("mlp", decay=0.3)
    theta = plain.theta()
    assert decayed.penalty(theta) == pytest.approx(float(0.15 * theta @ theta), rel=1e-14)
    assert_exact(decayed.loss(theta), plain.loss(theta) + 0.15 * theta @ theta)
    assert_exact(decayed.gradient(theta), plain.gradient(theta) + 0.3 * theta)


def test_decay_by_name_and_by_vector_are_the_same():
    by_name = network("mlp", decay={"first.weight": 0.3, "head.bias": 0.1})
    vector = torch.zeros(by_name.layout.n)
    vector[by_name.layout.indices("first.weight")] = 0.3
    vector[by_name.layout.indices("head.bias")] = 0.1
    by_vector = network("mlp", decay=vector)
    theta, v = by_name.theta(), randn(by_name.layout.n)
    assert torch.equal(by_name.loss(theta), by_vector.loss(theta))
    assert torch.equal(by_name.gradient(theta), by_vector.gradient(theta))
    assert torch.equal(by_name.hvp(theta, v), by_vector.hvp(theta, v))
    assert_exact(by_name.hvp(theta, v), network("mlp").hvp(theta, v) + vector * v)


# What is left untouched


def noisy() -> nn.Sequential:
    """Dropout and BatchNorm in train mode: every forward pass moves a generator and three buffers."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))

    return seeded(make).train()  # type: ignore


def everything(objective: Objective) -> None:
    theta, v = objective.theta(), randn(objective.layout.n)
    objective.loss(theta)
    objective.gradient(theta + v)
    objective.expansion(theta).hvp(v)
    if objective.product != "difference":
        objective.third(theta, v, v)
    objective.check(2)
    gradient_flow(objective)(0.0, theta)


@pytest.mark.parametrize("product", ["double-backward", "difference"])
def test_an_objective_leaves_the_model_and_the_generators_as_they_were(product):
    model, (_, batch) = noisy(), tanh_mlp()
    model[3].eval()  # a mode of its own in one place
    model[4].weight.grad = marked = torch.full((3, 6), 5.0)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    generator, random = torch.get_rng_state(), torch.initial_seed()
    everything(Objective(model, cross_entropy, batch, 0.1, product=product))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], x) for k, x in before.items())
    assert [m.training for m in model.modules()] == modes
    assert model[4].weight.grad is marked
    assert (marked == 5.0).all()
    assert all(p.grad is None for k, p in model.named_parameters() if k != "4.weight")
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.initial_seed() == random
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())


def test_dropout_and_batchnorm_are_the_same_function_at_every_evaluation():
    model, (_, batch) = noisy(), tanh_mlp()
    objective = Objective(model, cross_entropy, batch)
    theta = objective.theta()
    value, gradient = objective.loss(theta), objective.gradient(theta)
    model(batch[0])  # the training goes on: generator and running statistics move
    torch.rand(100)
    assert torch.equal(objective.loss(theta), value)
    assert torch.equal(objective.gradient(theta), gradient)
    other = Objective(model, cross_entropy, batch)
    assert not torch.equal(other.loss(theta), value)  # another moment, another mask


def test_a_buffer_that_every_pass_moves_and_reads_is_the_same_at_every_evaluation():
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 3)
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            self.scale.mul_(0.5)  # type: ignore
            return torch.tanh(self.scale * self.lin(x))  # type: ignore

    objective = Objective(Moving(), squares, randn(8, 4))
    theta = objective.theta()
    assert torch.equal(objective.gradient(theta), objective.gradient(theta))
    assert objective.check(2).passed
    assert (objective.model.get_buffer("scale") == 1).all()


def test_dropout_of_the_training_step_is_replayed():
    model, (_, batch) = noisy(), tanh_mlp()
    objective = Objective(model, cross_entropy, batch)
    loss = cross_entropy(model, batch)  # from the states that the objective was made in
    assert torch.equal(objective.loss(objective.theta()), loss.detach())


def test_a_model_in_eval_mode_uses_its_running_statistics():
    model, (_, batch) = noisy().eval(), tanh_mlp()
    objective = Objective(model, cross_entropy, batch)
    assert torch.equal(objective.loss(objective.theta()), cross_entropy(model, batch).detach())


# Precision


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


def test_a_model_with_a_dtype_written_into_it_is_checked_in_that_one():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 3, dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(Single.apply(self.lin(x.float())))  # type: ignore

    objective = Objective(Fixed(), squares, randn(16, 4).float())
    check = objective.check()
    assert check.dtype == "float32"
    assert check.passed


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
    objective = strange()
    objective.model.float()
    theta = objective.theta().double()
    fresh = Objective(objective.model, cross_entropy, objective.batches.first)
    assert fresh.gradient(theta).dtype == torch.float64
    assert fresh.check(2).dtype == "float64"
