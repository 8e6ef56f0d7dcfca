"""Shake-shake and stochastic depth as schemes: the equations that they follow, and the readings that fail."""

import math

import pytest
import torch
from torch import Tensor, nn

from eom.errors import LossNotDifferentiableError, SettingError
from eom.objective import Objective
from eom.stochastic.blocks import ShakeShake, StochasticDepth
from eom.stochastic.examples import as_it_stands, drift, observable, scaled_down, spread
from eom.stochastic.random_depth import diffusive, literal, survival_law, uniform_law, weak_errors

DEPTHS = [16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("block", "equation", "order"),
    [
        (scaled_down, lambda h: diffusive(drift, spread), 1),
        (as_it_stands, lambda h: literal(drift, spread, h, 0), 1),
        (as_it_stands, lambda h: literal(drift, spread, h, 1), 1),
        (as_it_stands, lambda h: literal(drift, spread, h, 2), 2),
    ],
    ids=["diffusive, Ito", "literal, ODE", "literal, noise", "literal, noise and drift"],
)
def test_readings_that_hold_with_their_orders(block, equation, order):
    found = weak_errors(block, uniform_law(), equation, observable, depths=DEPTHS)
    assert found.order == pytest.approx(order, abs=0.05), str(found)


@pytest.mark.parametrize(
    ("block", "equation"),
    [
        (scaled_down, lambda h: diffusive(drift, spread, "stratonovich")),
        (as_it_stands, lambda h: diffusive(drift, spread)),
    ],
    ids=["diffusive, Stratonovich", "literal, noise not scaled"],
)
def test_readings_that_do_not_hold_are_given_no_order(block, equation):
    found = weak_errors(block, uniform_law(), equation, observable, depths=DEPTHS)
    assert found.order is None
    assert min(found.error) > 0.01
    assert abs(found.slopes[-1]) < 0.1


def test_the_noise_of_the_modified_equation_explains_most_of_what_the_ode_leaves():
    ladders = [
        weak_errors(as_it_stands, uniform_law(), lambda h, k=k: literal(drift, spread, h, k), observable, depths=DEPTHS)
        for k in (0, 1, 2)
    ]
    errors = [found.error[-1] for found in ladders]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.05 * errors[1]


def test_stochastic_depth_has_order_one_where_its_noise_is_not_skew_and_one_half_elsewhere():
    depths = [2**k for k in range(5, 13)]
    even = weak_errors(scaled_down, survival_law(0.5), lambda h: diffusive(drift, spread), observable, depths=depths)
    assert even.order == pytest.approx(1, abs=0.05)
    skew = weak_errors(scaled_down, survival_law(0.9), lambda h: diffusive(drift, spread), observable, depths=depths)
    assert skew.order == pytest.approx(0.5, abs=0.05)
    errors = []
    for depth in depths:  # 1 - 2 p as sqrt h
        law = survival_law(0.5 + 0.5 * math.sqrt(1 / depth))
        few = weak_errors(
            scaled_down, law, lambda h: diffusive(drift, spread), observable, depths=[depth, 2 * depth, 4 * depth]
        )
        errors.append(few.error[0])
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("law", [uniform_law(), survival_law(0.3)])
def test_laws_have_mean_zero_and_variance_one(law):
    moments = [float((law.chances * law.values**k).sum()) for k in range(4)]
    assert moments[:3] == pytest.approx([1, 0, 1], abs=1e-12)
    assert moments[3] == pytest.approx(0 if len(law.values) > 2 else (1 - 0.6) / math.sqrt(0.21), abs=1e-12)


def branch() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh())


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_a_shake_shake_block_mixes_its_branches_at_random_and_evenly_in_eval_mode(per):
    torch.manual_seed(0)
    block, x = ShakeShake(branch(), branch(), per=per).requires_grad_(False), torch.randn(4000, 3)
    one, other = block.first(x), block.second(x)
    eta = ((block(x) - x - other) * (one - other)).sum(1) / (one - other).square().sum(1)
    assert 0 <= float(eta.min()) <= float(eta.max()) <= 1
    if per == "sample":
        assert float(eta.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 4000))
        assert float(eta.var()) == pytest.approx(1 / 12, rel=0.1)
    else:
        torch.testing.assert_close(eta, eta[0].expand(4000))
    torch.testing.assert_close(block.eval()(x), x + (one + other) / 2)


class Times(nn.Module):
    """Its input times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


@pytest.mark.parametrize("backward", ["forward", "independent", "even"])
def test_gradients_flow_back_by_the_weights_that_were_asked_for(backward):
    """At x = 1 with branches w and 2 w the output is 3 - eta; the gradient of the first w is its weight."""
    torch.manual_seed(0)
    block = ShakeShake(Times(), nn.Sequential(Times(), Times()), per="batch", backward=backward)
    with torch.no_grad():
        block.second[0].weight.fill_(2.0)  # type: ignore[index, union-attr] - a Sequential
    out = block(torch.ones(1, 1))
    eta = 3 - float(out.detach())
    (back,) = torch.autograd.grad(out.sum(), block.first.weight, retain_graph=True)  # type: ignore[arg-type]
    (rest,) = torch.autograd.grad(out.sum(), block.second[0].weight)  # type: ignore[index, union-attr]
    assert float(back + rest) == pytest.approx(1)
    if backward == "forward":
        assert float(back) == pytest.approx(eta)
    elif backward == "even":
        assert float(back) == 0.5
    else:
        assert abs(float(back) - eta) > 1e-3
        assert 0 < float(back) < 1


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def test_only_with_the_forward_weights_is_the_gradient_that_of_a_loss():
    x = torch.randn(8, 3)
    for backward, fine in (("forward", True), ("independent", False)):
        torch.manual_seed(0)
        own = Objective(ShakeShake(branch(), branch(), backward=backward), loss, x)
        if fine:
            assert own.hvp(own.theta(), own.theta()).isfinite().all()
        else:
            with pytest.raises(LossNotDifferentiableError):
                own.hvp(own.theta(), own.theta())


def test_stochastic_depth_keeps_a_branch_as_often_as_asked():
    torch.manual_seed(0)
    block, x = StochasticDepth(branch(), 0.3, per="sample"), torch.randn(4000, 3)
    kept = ((block(x) - x).abs().sum(1) > 0).double()
    assert float(kept.mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 4000))
    torch.testing.assert_close(block.eval()(x), x + 0.3 * block.branch(x))


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda: ShakeShake(branch(), branch(), per="pixel"), "per is 'pixel'"),
        (lambda: ShakeShake(branch(), branch(), backward="no"), "backward is 'no'"),
        (lambda: StochasticDepth(branch(), 0.0), "survival is 0.0"),
        (lambda: StochasticDepth(branch(), 0.5, per="x"), "per is 'x'"),
        (lambda: survival_law(1.0), "p is 1.0, expected a chance between 0 and 1"),
        (lambda: literal(drift, spread, 0.1, 3), "order is 3, expected 0, 1 or 2"),
    ],
)
def test_bad_input_is_named(act, complaint):
    with pytest.raises(SettingError, match=complaint):
        act()
