"""No false alarm on a right model, and no pass by an accident of the point, the mode or the precision."""

from collections import Counter, deque
from typing import Any

import numpy as np
import pytest
import torch
from awkward import Cube, Once, Single, Symplectic
from problems import cross_entropy, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

from eom.calculus.exact import exact
from eom.errors import LossNotDifferentiableError
from eom.objective import Objective

BATCH = tanh_mlp()[1]


def of(make, loss=cross_entropy, batch: Any = BATCH) -> Objective:
    return Objective(seeded(make), loss, batch)


class Branch(nn.Module):
    """A wrong function behind a layer that starts at zero, and in train mode only."""

    def __init__(self, always: bool):
        super().__init__()
        self.main, self.first, self.last = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(5, 3)
        self.always = always
        if always:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        wrong = self.always or self.training
        return self.main(x) + self.last(Cube.apply(self.first(x)) if wrong else self.first(x))  # type: ignore


# Nothing passes by accident


def test_a_wrong_derivative_that_is_multiplied_by_zero_at_the_start_is_found():
    check = of(lambda: Branch(True)).check()
    assert check.product == "difference"
    assert "double backward is off by" in check.reason


def test_the_self_test_is_run_again_in_another_mode():
    objective = of(lambda: Branch(False).eval())
    theta = objective.theta()
    objective.hvp(theta, theta)
    objective.model.train()
    with pytest.warns(UserWarning, match="double backward is off by"):
        objective.hvp(theta, theta)


def test_a_gradient_that_is_not_that_of_the_loss_is_found_in_single_precision():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Single.apply(torch.tanh(self.a(x))[:, :3]) + 0.3 * self.b(x).detach()  # type: ignore

    model, (x, labels) = seeded(Cut).float(), BATCH
    check = Objective(model, cross_entropy, (x.float(), labels)).check()
    assert check.dtype == "float32"
    assert not check.conservative


def test_third_derivatives_by_differences_are_refused():
    objective = of(lambda: nn.Linear(4, 3)).replaced(product="difference")
    theta = objective.theta()
    with pytest.raises(LossNotDifferentiableError, match='product="difference" gives H v, but no T'):
        objective.third(theta, theta, theta)


# No false alarms


def zeros() -> nn.Module:
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def kinked() -> nn.Module:
    """ReLU at its kink: zero biases, and a sample of zeros."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    return model


def with_a_zero_row() -> Any:
    x, labels = BATCH
    return torch.cat([x[:-1], torch.zeros(1, 4, dtype=x.dtype)]), labels


def saturated(model: nn.Module, batch: Any) -> Tensor:
    """Zero, with a zero gradient, until a margin is hurt."""
    return F.relu(model(batch[0]).square().sum(1) - 1e-4).mean()


def zero_net() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


FAIR = {
    "all parameters zero": lambda: of(zeros),
    "a network of zeros": lambda: of(zero_net),
    "exactly at a kink": lambda: of(kinked, batch=with_a_zero_row()),
    "a zero gradient at the start": lambda: of(zero_net, saturated),
    "a huge loss": lambda: of(lambda: nn.Linear(4, 3), lambda m, b: 1e12 * cross_entropy(m, b)),
    "a tiny loss": lambda: of(lambda: nn.Linear(4, 3), lambda m, b: 1e-200 * cross_entropy(m, b)),
    "a large constant in the loss": lambda: of(lambda: nn.Linear(4, 3), lambda m, b: cross_entropy(m, b) + 1e4),
    "large inputs": lambda: of(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), batch=(1e3 * BATCH[0], BATCH[1])
    ),
}


@pytest.mark.parametrize("make", FAIR.values(), ids=FAIR)
def test_a_right_model_passes(make):
    check = make().check(2)
    assert check.passed, check.reason
    assert check.product == "double-backward"


@pytest.mark.parametrize("width", [8, 64, 256])
def test_relu_networks_pass_where_only_single_precision_can_be_had(width):
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            self.head = nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(Single.apply(self.layers(x)))  # type: ignore

    x = randn(128, 4, seed=1).float()
    check = Objective(seeded(Narrow).float(), cross_entropy, (x, torch.arange(128) % 3)).check()
    assert check.dtype == "float32"
    assert check.product == "double-backward", check.reason


def test_a_network_at_its_minimum_passes():
    x, target = randn(20, 4, seed=1), randn(20, 3, seed=2)
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, target).solution.T)
    objective = Objective(model, lambda m, b: F.mse_loss(m(b[0]), b[1]), (x, target))
    assert objective.gradient(objective.theta()).norm() < 1e-14
    assert objective.check(2).passed


def test_torch_func_inside_the_loss_is_no_obstacle():
    """The equation u' = -u, its derivative by torch.func."""

    def residual(model: nn.Module, t: Tensor) -> Tensor:
        u = lambda s: model(s.reshape(1, 1)).squeeze()  # noqa: E731
        return (vmap(grad(u))(t) + vmap(u)(t)).square().mean()

    objective = of(lambda: nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)), residual, randn(9, seed=1))
    assert objective.check(1).passed


class Learned(nn.Module):
    def __init__(self, norm: bool):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), *([nn.LayerNorm(8)] if norm else []), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "LayerNorm"])
def test_a_loss_that_takes_derivatives_itself_is_exact_to_the_order_above(norm):
    """Its first derivative is our second: LayerNorm's third is needed for H v."""

    def loss(model: nn.Module, z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()  # no enable_grad around it, as in a training loop
        (dh,) = torch.autograd.grad(model(z).sum(), z, create_graph=True)
        return (torch.cat([dh[:, 3:], -dh[:, :3]], 1) - z).square().mean()

    check = of(lambda: Learned(norm), loss, randn(10, 6, seed=1)).check(2)
    assert check.passed, check.reason
    assert [p for p in check.probes if p.verdict == "noted"] == []
    assert of(Symplectic, lambda m, z: m(z).square().mean(), randn(10, 6, seed=1)).check(2).passed


def residual_by_backward(model: nn.Module, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    torch.autograd.backward(model(z).sum(), inputs=[z], create_graph=True)
    return z.grad.square().mean()  # type: ignore


WAYS = {
    "jvp": lambda model, z: jvp(model, (z,), (z.cos(),))[1].square().mean(),
    "jacfwd": lambda model, z: vmap(jacfwd(model))(z).square().mean(),
    "jacrev": lambda model, z: vmap(jacrev(model))(z).square().mean(),
    "backward": residual_by_backward,
}


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    ("way", "norm"), [(way, norm) for way in WAYS for norm in (False, True) if not norm or way not in ("jvp", "jacfwd")]
)
def test_derivatives_inside_a_loss_are_seen_however_they_are_taken(way, norm):
    check = of(lambda: Learned(norm), WAYS[way], randn(10, 6, seed=1)).check(2)
    assert check.passed, check.reason
    assert check.product == "double-backward"
    assert check.third


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_loss_that_takes_derivatives_is_evaluated_anew_from_the_same_state():
    """H v is found to need another evaluation in the middle of the first."""

    class Stepping(Learned):
        def __init__(self):
            super().__init__(False)
            self.calls, self.mean = 0, torch.zeros(())

        def forward(self, z: Tensor) -> Tensor:
            self.calls += 1
            self.mean += 1
            with torch.no_grad():
                self.layers[0].weight.mul_(0.9)  # type: ignore[operator]
            return super().forward(z) * (self.calls + self.mean)

    objective = of(Stepping, residual_by_backward, randn(10, 6, seed=1)).replaced(product="double-backward")
    theta = objective.theta()
    at = objective.expansion(theta)
    torch.testing.assert_close(at.value, objective.loss(theta), rtol=1e-12, atol=0)
    for g in (at.gradient, objective.gradient_and_hvp(theta)[0]):
        torch.testing.assert_close(g, objective.gradient(theta), rtol=1e-10, atol=1e-12)


def test_a_failed_test_is_explained_under_no_grad_too():
    wrong = lambda m, z: residual_by_backward(m, z) + Cube.apply(next(m.parameters())).sum()  # type: ignore  # noqa: E731
    objective = of(lambda: Learned(False), wrong, randn(10, 6, seed=1))
    theta = objective.theta()
    with torch.no_grad(), pytest.warns(UserWarning, match="double backward is off by"):
        objective.hvp(theta, theta)


@pytest.mark.parametrize("way", ["jvp", "jacfwd"])
def test_a_gradient_that_torch_itself_gets_wrong_is_told_from_one_that_was_cut(way):
    """Forward mode through LayerNorm, whose second derivative torch takes for the gradient of the loss."""
    check = of(lambda: Learned(True), WAYS[way], randn(10, 6, seed=1)).check(2)
    assert not check.conservative
    assert "one of torch's fused normalisations" in check.reason

    def exactly(model: nn.Module, z: Tensor) -> Tensor:
        with exact(3):
            return WAYS[way](model, z)

    assert of(lambda: Learned(True), exactly, randn(10, 6, seed=1)).check(2).passed


def test_a_backward_pass_that_raises_anything_is_a_missing_derivative():
    class Strict(Once):
        @staticmethod
        def backward(ctx, g):  # type: ignore
            assert not torch.is_grad_enabled(), "once only"
            return g * ctx.saved_tensors[0].cos()

    check = of(lambda: nn.Linear(4, 3), lambda m, b: Strict.apply(m(b[0])).square().mean()).check()  # type: ignore
    assert check.product == "difference"
    assert "once only" in check.reason


# The model is left as it was


class Keeping(nn.Module):
    """Keeps all sorts of things in plain attributes, and moves a frozen teacher in every forward pass."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        self.aux, self.calls, self.mean = torch.zeros(()), 0, torch.zeros(3)
        self.array, self.list, self.last, self.set = np.zeros(1), [0], deque([0], 2), {0}
        self.dict, self.counter, self.data = {"calls": 0, "a": None}, Counter(), torch.ones(2)
        self.objects, self.shape = np.array([None, torch.ones(2)], dtype=object), torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for a, b in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                a.lerp_(b, 0.1)
        self.aux, self.calls = self.student(x).square().mean(), self.calls + 1
        self.mean.lerp_(self.student(x).detach().mean(0), 0.5)
        self.array += 1
        self.list.append(self.calls)
        self.last.append(self.calls)
        self.dict["calls"] += 1
        self.dict["b"] = self.dict.pop("a", None)
        self.counter["calls"] += 1
        self.data.data.add_(1)
        self.shape.unsqueeze_(0)
        self.array.resize(len(self.array) + 1, refcheck=False)
        self.set.add(self.calls)
        return torch.tanh(self.student(x)) + self.aux * (1 + self.mean.sum() + len(self.list) + self.array[0])


def contents(model: Any) -> str:
    names = ("array", "list", "last", "set", "dict", "counter", "data", "objects", "shape", "mean")
    return repr([getattr(model, name) for name in names])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_evaluations_leave_attributes_and_frozen_parameters_as_they_were(dtype):
    batch = BATCH[0].to(dtype), BATCH[1]
    objective = Objective(seeded(Keeping).to(dtype), cross_entropy, batch)
    model: Any = objective.model
    model.mean = model.mean.to(dtype)
    cross_entropy(model, batch)
    aux, calls, teacher = model.aux, model.calls, model.teacher.weight.clone()
    before = contents(model)
    theta = objective.theta()
    objective.check(2)
    objective.hvp(theta, theta)
    assert model.aux is aux
    assert model.calls == calls
    assert contents(model) == before
    assert torch.equal(model.teacher.weight, teacher)


def test_a_forward_pass_that_writes_to_its_weights_does_not_write_to_theta():
    class Clamped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    objective = of(lambda: Clamped(4, 3))
    theta = objective.theta()
    before = theta.clone()
    objective.gradient(theta)
    objective.gradient(theta)
    assert torch.equal(theta, before)


def test_a_module_that_is_used_twice_holds_its_own_weights_afterwards():
    shared = seeded(lambda: nn.Linear(4, 4))
    weight, before = shared.weight, shared.weight.detach().clone()  # type: ignore[union-attr]
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), seeded(lambda: nn.Linear(4, 3)))
    objective = Objective(model, cross_entropy, BATCH)
    theta = objective.theta()
    objective.loss(theta + 1)
    assert objective.check(2).passed
    objective.hvp(theta, theta)
    assert shared.weight is weight
    assert torch.equal(weight, before)  # type: ignore[arg-type]


SINGLES = {
    "assignment": lambda x: _assigned(torch.zeros(24, 3), x),
    "accumulation": lambda x: torch.zeros(24, 3).add_(x).mul_(2),
    "scatter": lambda x: x * torch.zeros(24, 3).scatter_(1, BATCH[1][:, None], 0.9),
    "index_add": lambda x: torch.zeros(24, 3).index_add_(0, torch.arange(24), x),
    "noise": lambda x: x + torch.randn(24, 3) + torch.randn_like(x) + torch.rand(24, 3, dtype=torch.float32),
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0]) + torch.linspace(0, 1, 3),
}


def _assigned(out: Tensor, x: Tensor) -> Tensor:
    out[:, 0::2] = x[:, 0::2].sin()
    return out


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("f", SINGLES.values(), ids=SINGLES)
def test_a_model_of_single_precision_is_the_same_function_in_double(f, single):
    model, (x, labels) = seeded(lambda: nn.Linear(4, 3)).float(), BATCH
    objective = Objective(model, lambda m, b: F.cross_entropy(f(m(b[0])), b[1]), (x.float(), labels))
    theta = objective.theta()
    assert float(objective.loss(theta.double())) == pytest.approx(float(objective.loss(theta)), rel=1e-5)
    check = objective.check(2)
    assert check.dtype == "float64"
    assert check.passed, check.reason


def test_a_loss_that_ends_near_by_is_tested_where_it_is():
    """A parameter at the border of what the loss accepts."""

    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            if not torch.equal(self.scale.detach().round(decimals=4), torch.ones_like(self.scale)):
                raise ValueError("out of its domain")
            return (x * self.scale).sin()[:, :3]

    assert of(Bounded).check(2).passed


def test_an_examination_leaves_attributes_of_modules_as_they_were():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.mean = nn.Linear(4, 3), torch.zeros(3, dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            return h * h.detach().mean() - self.mean

    model: Any = seeded(Running).float()
    before = model.mean
    check = Objective(model, cross_entropy, (BATCH[0].float(), BATCH[1])).check()
    assert not check.conservative
    assert model.mean is before
