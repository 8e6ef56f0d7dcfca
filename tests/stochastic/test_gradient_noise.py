"""The noise of mini-batch gradients: its covariance against a dense one, and that of batches against all of them."""

import math
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import eom
from eom.analysis.conclusion import conclusion
from eom.errors import LossNotDifferentiableError, SettingError
from eom.stochastic.covariance import GradientNoise, noise_of
from eom.stochastic.quantity import gradient_noise


def objective(samples: int = 7, inputs: int = 3) -> eom.Objective:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, inputs, generator=generator)
    y = torch.randint(2, (samples,), generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 2))
    return eom.Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), (x, y))


def dense(own: eom.Objective) -> torch.Tensor:
    """[N, n] gradients by the objective of each sample alone."""
    x, y = own.batches.first
    alone = [eom.Objective(own.model, own._loss_fn, (x[i : i + 1], y[i : i + 1])) for i in range(len(x))]
    return torch.stack([one.gradient(own.theta()) for one in alone])


def test_the_root_is_one_of_the_covariance():
    own = objective()
    noise, g = noise_of(own), dense(own)
    covariance = torch.cov(g.T, correction=0)
    torch.testing.assert_close(noise.root.T @ noise.root, covariance, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(noise.mean, g.mean(0))
    assert noise.trace == pytest.approx(float(covariance.trace()), rel=1e-12)
    values, vectors = torch.linalg.eigh(covariance)
    top, directions = noise.top(3)
    torch.testing.assert_close(top, values[-3:].flip(0), rtol=1e-10, atol=1e-14)
    assert float((directions[0] @ vectors[:, -1]).abs()) == pytest.approx(1, abs=1e-9)
    assert noise.along(directions).tolist() == pytest.approx((top / top.new_tensor(noise.trace)).tolist())


@pytest.mark.parametrize("size", [1, 3, 6, 7])
def test_the_covariance_of_a_batch_without_replacement_is_that_over_all_batches(size):
    own = objective()
    noise, g = noise_of(own), dense(own)
    means = torch.stack([g[list(rows)].mean(0) for rows in combinations(range(7), size)])
    expected = float(torch.cov(means.T, correction=0).trace()) if len(means) > 1 else 0.0
    assert noise.share(size) * noise.trace == pytest.approx(expected, rel=1e-10, abs=1e-16)
    assert noise.share(size, replacement=True) == 1 / size


def test_samples_have_the_covariance():
    noise = noise_of(objective())
    z = torch.randn(200_000, 7, generator=torch.Generator().manual_seed(0))
    covariance = torch.cov(noise(z).T)
    expected = noise.root.T @ noise.root
    assert float((covariance - expected).norm()) < 5 * float(expected.norm()) * math.sqrt(2 / 200_000) * 3


def test_the_curvature_that_the_noise_meets():
    """Against Tr(H Sigma) / Tr Sigma of dense matrices, within the interval of many probes."""
    own = objective(40)
    theta, noise = own.theta(), noise_of(own)
    h = torch.stack([own.hvp(theta, e) for e in torch.eye(len(theta))])
    expected = float((h @ noise.root.T @ noise.root).trace()) / noise.trace
    found = noise.curvature(lambda v: own.hvp(theta, v), probes=400)
    assert abs(found.value - expected) < 2 * found.bar
    assert found.bar < 0.3 * abs(expected)


@pytest.mark.parametrize("exponent", [1.5, 3.0])
def test_the_tail_index_of_a_pareto_law(exponent):
    """Of N = 20000 the interval holds the exponent; of Gaussian noise the index is large."""
    own = objective(120)
    noise = noise_of(own)
    u = torch.rand(20000, generator=torch.Generator().manual_seed(5))
    directions = F.normalize(torch.randn(20000, 5), dim=1)
    planted = type(noise)(u[:, None] ** (-1 / exponent) * directions, torch.zeros(5))
    found = planted.tail_index()
    assert abs(found.value - exponent) < 2 * found.bar
    gaussian = type(noise)(torch.randn(20000, 5), torch.zeros(5))
    assert gaussian.tail_index().value > 5


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda n: n.share(8), "the batch size is 8, expected a whole number from 1 to the 7 samples"),
        (lambda n: n.share(0), "the batch size is 0"),
        (lambda n: n.top(7), "k is 7, expected a whole number from 1 to 6, the rank"),
        (lambda n: n.tail_index(), "7 samples have no tail to be read: expected 100 or more"),
    ],
)
def test_bad_input_is_named(act, complaint):
    with pytest.raises(SettingError, match=complaint):
        act(noise_of(objective()))


def train(folder, model, quantities, steps: int = 12, **settings):
    x, y = torch.randn(120, 3), torch.randint(2, (120,))
    optimizer = settings.pop("optimizer", torch.optim.SGD)(model.parameters(), lr=0.1)
    loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731 - two lines of use
    with eom.track(model, optimizer, loss, folder, every=2, quantities=quantities, **settings) as tracker:
        for _ in range(steps):
            optimizer.zero_grad()
            tracker.loss((x, y)).backward()
            optimizer.step()
    return tracker.run, (x, y), loss


@pytest.mark.parametrize("settings", [{}, {"order": None}, {"optimizer": torch.optim.Adam}])
def test_the_tracker_records_it_at_some_of_its_records(tmp_path, settings):
    """Also where nothing is predicted; the first one is that of the model at the start."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    start = [p.detach().clone() for p in model.parameters()]
    run, batch, loss = train(tmp_path / "run", model, [gradient_noise(every=3)], **settings)
    rows = run.table().loc[lambda t: t.quantity.astype(str).str.startswith("gradient_noise")]
    assert sorted(rows.step.unique()) == [0, 6]
    assert set(rows.quantity) == {f"gradient_noise{end}" for end in ("", "_scale", "_top", "_curvature", "_tail")}
    assert run.manifest["units"]["gradient_noise_scale"] == "samples"
    with torch.no_grad():
        for p, value in zip(model.parameters(), start, strict=True):
            p.copy_(value)
    noise = noise_of(eom.Objective(model, loss, batch))
    first = rows.loc[rows.step == 0].set_index("quantity").value
    assert first["gradient_noise"] == pytest.approx(noise.trace, rel=1e-10)
    assert first["gradient_noise_scale"] == pytest.approx(noise.scale, rel=1e-10)
    (said,) = (s for s in conclusion(run) if "gradient has the variance" in s)
    assert said.startswith("At step 6, where it was measured last")
    assert "along one direction" in said
    assert "curvature that the noise meets" in eom.report(run).read_text("utf-8")


def test_the_scale_of_a_batch_knows_that_its_gradient_holds_noise():
    """Over batches of 8 the mean of |g_B|^2 is far above |g|^2, and that of the signal is it."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.tensor([0.3, -0.1]) + torch.randn(1000, 2, generator=generator)
    mean = gradients.mean(0)
    found, raw = [], []
    for _ in range(4000):
        own = gradients[torch.randint(1000, (8,), generator=generator)]
        batch = GradientNoise((own - own.mean(0)) / 8**0.5, own.mean(0))
        found.append(batch.signal)
        raw.append(float(batch.mean @ batch.mean))
    whole, off = float(mean @ mean), 3 * float(torch.tensor(found).std()) / 4000**0.5
    assert sum(found) / 4000 == pytest.approx(whole, abs=off)
    assert sum(raw) / 4000 > 2 * whole
    assert GradientNoise(torch.ones(4, 2), torch.zeros(2)).scale == float("inf")


def test_a_training_is_the_same_with_it(tmp_path):
    ends = []
    for quantities in ([], [gradient_noise(every=1)]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.Tanh(), nn.Linear(4, 2))
        train(tmp_path / str(len(ends)), model, quantities)
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*ends)


def test_batch_norm_is_refused_before_the_first_step(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(LossNotDifferentiableError, match="BatchNorm in train mode"):
        train(tmp_path / "run", model, [gradient_noise()])


class Breaking:
    """A quantity of a user's own that fails at its second record."""

    name, units, every = "mine", {"mine": "apples"}, 1

    def __init__(self) -> None:
        self.calls = 0

    def check(self, objective) -> None:
        pass

    def __call__(self, objective, theta):
        self.calls += 1
        if self.calls == 2:
            raise ArithmeticError("no")
        yield "mine", 3.0, None


def test_a_quantity_that_fails_is_withheld_and_the_training_goes_on(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.warns(eom.errors.TrackingWarning, match="quantity 'mine' is withheld from here on: it raised Arith"):
        run, _, _ = train(tmp_path / "run", model, [Breaking(), gradient_noise(every=1)])
    table = run.table()
    assert table.loc[table.quantity == "mine", "step"].tolist() == [0]
    assert table.loc[table.quantity == "gradient_noise", "step"].nunique() == 6
    assert run.events().kind.tolist() == ["quantity_failed"]


@pytest.mark.parametrize(
    ("quantities", "complaint"),
    [
        ([3], "a quantity is 3, expected an object with name, units, every and check"),
        ([gradient_noise(every=0)], "every of the quantity 'gradient_noise' is 0, expected 1 or more"),
        ([gradient_noise(), gradient_noise()], "gives 'gradient_noise', a name that is taken"),
    ],
)
def test_what_is_no_quantity_is_refused(tmp_path, quantities, complaint):
    with pytest.raises(SettingError, match=complaint):
        train(tmp_path / "run", nn.Linear(3, 2), quantities)
    with pytest.raises(SettingError, match="probes is 1, expected 0, or 2 or more"):
        gradient_noise(probes=1)
