"""Gradients of single samples: those of a loop, and refused where a sample has none of its own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eom.errors import DataError, EomWarning, LossNotDifferentiableError
from eom.objective import Objective
from eom.objective.per_sample import per_sample_gradients


def batch(samples: int = 12):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(samples, 1, 6, 6, generator=generator), torch.randint(3, (samples,), generator=generator)


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def in_a_dict(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"]) * batch["weight"]


NETWORKS = {
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU(), nn.Linear(8, 3)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ),
    "attention": lambda: nn.Sequential(
        nn.Flatten(1, 2),
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(36, 3),
    ),
    "BatchNorm in eval mode": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)
    ).eval(),
}


def one_by_one(model: nn.Module, loss_fn, samples):
    """A loop over backward passes of torch's own."""
    rows = []
    for one in samples:
        gradients = torch.autograd.grad(loss_fn(model, one), list(model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_those_of_a_loop(name):
    torch.manual_seed(0)
    model, (x, y) = NETWORKS[name](), batch()
    objective = Objective(model, cross_entropy, (x, y), decay=0.1)
    found = per_sample_gradients(objective, objective.theta())
    wanted = one_by_one(model, cross_entropy, [(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    at = objective.theta()
    torch.testing.assert_close(found.mean(0), objective.gradient(at) - 0.1 * at, rtol=1e-12, atol=1e-13)


def test_batches_of_unequal_length_and_of_mappings_with_numbers_of_their_own():
    model, (x, y) = NETWORKS["perceptron"](), batch()
    whole = Objective(model, cross_entropy, (x, y))
    parts = Objective(model, cross_entropy, [(x[:5], y[:5]), (x[5:], y[5:])])
    theta = whole.theta()
    torch.testing.assert_close(per_sample_gradients(parts, theta), per_sample_gradients(whole, theta))
    mapping = Objective(model, in_a_dict, {"x": x, "y": y, "weight": torch.tensor(2.0)})
    torch.testing.assert_close(per_sample_gradients(mapping, theta), 2 * per_sample_gradients(whole, theta))


def test_the_model_is_left_as_it_was():
    model, data = NETWORKS["convolutions"](), batch()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    objective = Objective(model, cross_entropy, data)
    per_sample_gradients(objective, objective.theta() + 1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_what_vmap_does_not_know_is_done_one_by_one_and_said():
    def loss(model, batch):
        out = model(batch[0])
        return F.cross_entropy(out, batch[1]) * (1.0 if float(out.detach().sum()) > -1e9 else 2.0)

    model, data = NETWORKS["perceptron"](), batch()
    objective, plain = Objective(model, loss, data), Objective(model, cross_entropy, data)
    with pytest.warns(EomWarning, match="samples are differentiated one after another, as vmap failed"):
        found = per_sample_gradients(objective, objective.theta())
    torch.testing.assert_close(found, per_sample_gradients(plain, plain.theta()))


@pytest.mark.parametrize(
    ("model", "loss", "complaint"),
    [
        (
            lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3)),
            cross_entropy,
            r"normalises by batch statistics \(BatchNorm in train mode\).*call model.eval\(\), or use GroupNorm",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)),
            cross_entropy,
            "the gradient is not the mean of those of its samples .*Dropout and other randomness",
        ),
        (
            NETWORKS["perceptron"],
            lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"),
            "the loss is the sum over its 12 samples, not their mean",
        ),
        (NETWORKS["perceptron"], lambda m, b: m(b[0]).std(0).sum(), "is not the mean of those of its samples"),
    ],
)
def test_samples_without_gradients_of_their_own_are_refused(model, loss, complaint):
    objective = Objective(model(), loss, batch())
    with pytest.raises(LossNotDifferentiableError, match=complaint):
        per_sample_gradients(objective, objective.theta())


def test_a_batch_without_samples_and_gradients_beyond_the_memory_are_refused(monkeypatch):
    objective = Objective(nn.Linear(2, 1), lambda m, b: m(torch.ones(2)).square().sum() + b, torch.tensor(1.0))
    with pytest.raises(DataError, match="no dimension of samples"):
        per_sample_gradients(objective, objective.theta())
    monkeypatch.setattr("eom.objective.per_sample.available", lambda device: 1e4)
    whole = Objective(NETWORKS["perceptron"](), cross_entropy, batch())
    with pytest.raises(DataError, match="12 gradients of 323 parameters take"):
        per_sample_gradients(whole, whole.theta())
