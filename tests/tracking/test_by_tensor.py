"""What is read off the parameters where they lie is what the flat vector gives."""

import numpy as np
import pytest
import torch
from problems import DTYPE, cross_entropy, tanh_mlp
from torch import nn
from torch.optim import SGD
from trainings import at, bowl, bowl_loss, steps, tracked, train

from eom.tracking.reader import bits

KEYS = ["step", "group", "quantity", "source"]


@pytest.mark.parametrize("settings", [{}, {"bars": False}, {"order": 0}, {"order": None, "every": 1}])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_an_observable_of_the_users_own_changes_no_number_of_the_others(tmp_path, settings, decay):
    """With one, everything is computed from the flat vector; without, tensor by tensor."""
    one = tracked(tmp_path / "one", decay=decay, **settings).table()
    own = {"mean": lambda named: sum(p.sum() for p in named.values())}
    two = tracked(tmp_path / "two", decay=decay, observables=own, **settings).table()
    both = one.merge(two[~two.quantity.str.startswith("mean")], on=KEYS, how="outer", suffixes=("", "_flat"))
    assert len(both) == len(one) > 0
    np.testing.assert_allclose(both.value, both.value_flat, rtol=1e-9, atol=1e-14)


def test_the_recorded_gradient_norm_and_penalty_are_those_of_the_loss(tmp_path):
    """A bowl of curvatures a: its gradient at (1 - lr (a + decay))^n theta is (a + decay) times that."""
    lr, decay = 0.1, 0.5
    rates, theta = torch.tensor([1.0, 3.0], dtype=DTYPE), torch.tensor([2.0, -1.0], dtype=DTYPE)
    model, batch = bowl(rates.tolist(), theta.tolist())
    optimizer = SGD(model.parameters(), lr=lr, weight_decay=decay)
    run = train(
        tmp_path / "run",
        model,
        optimizer,
        lambda step, tracker: steps(optimizer, tracker.loss, [batch]),
        count=4,
        loss_fn=bowl_loss,
        every=1,
    )
    for step in range(4):
        there = (1 - lr * (rates + decay)) ** step * theta
        assert at(run, step, "gradient_norm") == pytest.approx(float(((rates + decay) * there).norm()), rel=1e-12)
        assert at(run, step, "penalty") == pytest.approx(float(decay * there.square().sum()) / 2, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (2, 3), (5, 7, 3), ()])
def test_the_bits_of_a_parameter_change_with_any_one_entry(dtype, shape):
    p = nn.Parameter(torch.linspace(-1, 1, int(np.prod(shape)), dtype=DTYPE).reshape(shape).to(dtype))
    before = bits(p).sum()
    assert torch.equal(bits(p).sum(), before)
    p.data.view(-1)[-1] = torch.nextafter(p.data.view(-1)[-1].float(), torch.tensor(9.0)).to(dtype) + 2**-7
    assert not torch.equal(bits(p).sum(), before)


def test_bits_of_parameters_that_are_not_contiguous_are_read_too():
    p = nn.Parameter(torch.arange(24, dtype=DTYPE).view(2, 3, 4).permute(2, 0, 1))
    assert int(bits(p).sum()) == int(bits(nn.Parameter(p.detach().contiguous())).sum())


def test_a_write_past_autograd_to_one_entry_between_two_steps_is_seen(tmp_path):
    """``p.data`` leaves torch's own counter of writes as it is."""
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=0.05)
    weight = next(model.parameters())

    def body(step, tracker):
        steps(optimizer, tracker.loss, [batch])
        if step == 7:
            version = weight._version
            weight.data.view(-1)[3] += 1e-9
            assert weight._version == version

    with pytest.warns(match="written to between two steps"):
        run = train(tmp_path / "run", model, optimizer, body, count=12, loss_fn=cross_entropy)
    assert "weights_written" in set(run.events().kind)


def test_a_learning_rate_that_is_a_tensor_and_changes_in_place_is_read_anew(tmp_path):
    model, batch = tanh_mlp()
    lr = torch.tensor(0.05, dtype=DTYPE)
    optimizer = SGD(model.parameters(), lr=lr)

    def body(step, tracker):
        lr.fill_(0.05 / (step + 1))
        steps(optimizer, tracker.loss, [batch])

    run = train(tmp_path / "run", model, optimizer, body, count=5, every=1)
    assert [at(run, step, "lr") for step in range(5)] == pytest.approx([0.05 / (step + 1) for step in range(5)])
