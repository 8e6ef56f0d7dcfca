"""No false alarm on a right model, and no pass by an accident of the point, the mode or the precision."""

from typing import Any

import pytest
import torch
from awkward import Cube, Once, Single
from problems import cross_entropy, randn, seeded, tanh_mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import eom
import eom.errors
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
    assert not check.second


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


def test_a_backward_pass_that_raises_anything_is_a_missing_derivative():
    class Strict(Once):
        @staticmethod
        def backward(ctx, g):  # type: ignore
            assert not torch.is_grad_enabled(), "once only"
            return g * ctx.saved_tensors[0].cos()

    check = of(lambda: nn.Linear(4, 3), lambda m, b: Strict.apply(m(b[0])).square().mean()).check()  # type: ignore
    assert check.product == "difference"
    assert "once only" in check.reason


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


@pytest.mark.parametrize("f", [lambda w: w.sqrt().sum(), lambda w: w.log().square().sum()])
def test_a_domain_that_ends_within_a_step_disturbs_no_probe(f):
    """One of 51 weights lies a billionth beside the end of a square root's, or a logarithm's, domain."""

    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.cat([torch.ones(50), torch.tensor([1e-9])]))

    check = of(Weights, lambda m, b: f(m.w)).check(2)
    assert check.passed, check.reason
    assert check.third


@pytest.mark.parametrize("share", [1e-1, 1e-3, 1e-5])
def test_a_stop_gradient_in_a_branch_of_any_share_is_no_second_derivative_to_be_mended(share):
    """The loss as a whole shows nothing of it, but H v of the branch's own weights does, and then their slope."""

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.cut, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.cut(x)
            return self.head(torch.tanh(self.main(x)) + share * torch.tanh(h) * (1 + h.detach().square()))

    objective = of(Cut)
    check = objective.check()
    assert not check.second
    assert "the gradient along 'cut.weight', 'cut.bias' is not the derivative of the loss" in check.reason
    assert "mend" not in check.reason
    with pytest.raises(LossNotDifferentiableError, match="no H v of the loss"):
        objective.hvp(objective.theta(), objective.theta())


@pytest.mark.parametrize("step", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_the_stairs_of_a_quantised_network_are_not_taken_for_rounding(step, seed):
    class Quantised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fake_quantize_per_tensor_affine(x.float(), step, 0, -128, 127).to(x)

    parts = (lambda: nn.Linear(4, 16), Quantised, nn.Tanh, lambda: nn.Linear(16, 16), Quantised, nn.GELU)
    model = seeded(lambda: nn.Sequential(*(p() for p in parts), nn.Linear(16, 3)), seed=seed)
    assert not Objective(model, cross_entropy, BATCH).check().passed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_that_casts_to_half_precision_is_said_to(dtype):
    check = of(lambda: nn.Linear(4, 3), lambda m, b: m(b[0]).to(dtype).square().mean().double()).check()
    assert not check.second
    assert f"the loss is rounded to {str(dtype)[6:]} inside, whose stairs have no slope: cast under" in check.reason


@pytest.mark.parametrize("head", [nn.Identity, lambda: nn.Linear(4, 3)])
def test_a_reentrant_checkpoint_at_the_input_is_named(head):
    """Inside of it autograd.grad finds no parameters; training by .backward() does."""

    class Saved(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), head()

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            return self.head(checkpoint(lambda y: torch.tanh(self.inner(y)), x, use_reentrant=True))

    objective = of(Saved)
    with pytest.raises(LossNotDifferentiableError, match="use_reentrant=False"):
        objective.check()


def test_a_warning_is_seen_where_another_package_asked_for_the_derivative():
    """The first product is asked for by the integrator's own loop."""
    objective = of(lambda: nn.Linear(4, 3), lambda m, b: Once.apply(m(b[0])).square().mean())  # type: ignore
    motion = eom.corrected(eom.gradient_flow(objective), eom.Euler(), h=0.1, order=1)
    with pytest.warns(eom.errors.EomWarning, match="differences of gradients") as warned:
        eom.flow(motion, objective.theta(), t=0.1)
    assert warned[0].filename == __file__
