"""Learning rates that change, mini-batches, dropout: rates from a look-ahead, displacements over the whole data."""

from typing import Any

import pytest
import torch
from problems import cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR
from torch.utils.data import DataLoader, TensorDataset
from trainings import LR, at, bar, bowl, bowl_loss, kinds, messages, sources, steps, tracked, train

import eom
from eom.errors import TrackingWarning


def scheduled(folder, make, loss_fn, factors: list[float], lr: float = LR, **settings: Any) -> eom.Run:
    """Full-batch training with a factor on the learning rate for each step."""
    model, batch = make()
    optimizer = SGD(model.parameters(), lr=lr)
    scheduler = LambdaLR(optimizer, lambda step: factors[min(step, len(factors) - 1)])

    def body(step: int, tracker: Any) -> None:
        steps(optimizer, tracker.loss, [batch])
        scheduler.step()

    return train(folder, model, optimizer, body, count=len(factors), loss_fn=loss_fn, **settings)


@pytest.mark.parametrize("change", [1, 3, 5])
def test_a_learning_rate_that_changes_within_a_record_gives_a_look_ahead_with_the_same_rates(tmp_path, change):
    constant = scheduled(tmp_path / "constant", tanh_mlp, cross_entropy, [1.0] * 12, every=100)
    run = scheduled(tmp_path / "run", tanh_mlp, cross_entropy, [1.0] * change + [0.3] * (12 - change), every=100)
    assert sources(run) == {"look-ahead", "order-0", "order-1"}
    for name in constant.manifest["groups"]:
        for quantity in ("norm_squared_rate", "norm_rate"):
            ahead = at(run, 0, quantity, "look-ahead", name)
            assert ahead == pytest.approx(at(constant, 0, quantity, group=name), rel=1e-10, abs=1e-12)
            for source in ("order-0", "order-1"):
                assert at(run, 0, quantity, source, name) == at(constant, 0, quantity, source, name)
                assert bar(run, 0, quantity, source, name) == pytest.approx(
                    bar(constant, 0, quantity, source, name), rel=1e-4, abs=1e-12
                )
    assert not kinds(run)


def test_records_next_to_a_change_of_the_learning_rate_are_measured_along_the_run_where_they_can_be(tmp_path):
    model, batch = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    scheduler = MultiStepLR(optimizer, [9])
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=3) as tracker:
        for _ in range(24):
            steps(optimizer, tracker.loss, [batch])
            scheduler.step()
    by = {
        step: "look-ahead" if "look-ahead" in sources(tracker.run, step=step) else "measured"
        for step in range(0, 18, 3)
    }
    assert by == {0: "measured", 3: "measured", 6: "look-ahead", 9: "measured", 12: "measured", 15: "measured"}


def test_a_warm_up_from_zero_records_its_first_step_without_rates(tmp_path):
    with pytest.warns(TrackingWarning, match=r"the learning rate is 0\.0: no time passes"):
        run = scheduled(
            tmp_path / "run", tanh_mlp, cross_entropy, [0.0] * 8 + [0.5, 1.0] + [1.0] * 20, horizon=9, horizons=2
        )
    table = run.table()
    assert not table.value.isna().any()
    assert not sources(run, step=0)
    assert at(run, 0, "norm_squared") == at(run, 5, "norm_squared")
    assert {"measured", "order-1"} <= sources(run, step=10)


def test_a_displacement_over_changing_learning_rates_is_that_of_the_bowl(tmp_path):
    a, theta, factors = 1.2, 0.8, [1.0, 1.0, 0.5, 0.5, 0.5, 0.0, 0.25, 0.25, 0.25, 0.25]
    run = scheduled(
        tmp_path / "run", lambda: bowl([a], [theta]), bowl_loss, factors, 0.1, every=100, horizon=10, horizons=1
    )
    end = {"measured": theta, "order-0": theta, "order-1": theta, "order-2": theta}
    for h in (0.1 * f for f in factors):
        end["measured"] *= 1 - h * a
        for order in (0, 1, 2):
            exponent = sum((h * a) ** (k + 1) / (k + 1) for k in range(order + 1))
            end[f"order-{order}"] *= float(torch.exp(torch.tensor(-exponent)))
    for source, x in end.items():
        assert at(run, 0, "norm_displacement", source) == pytest.approx(
            x - theta, rel=1e-4 if source == "order-2" else 1e-5
        )
    for order in (0, 1, 2):
        wrong = abs(end[f"order-{order}"] - end["measured"])
        assert at(run, 0, "position_error", f"order-{order}") == pytest.approx(wrong, rel=2e-2)
        assert wrong <= 2 * bar(run, 0, "position_error", f"order-{order}")


@pytest.mark.slow
def test_learning_rates_of_two_groups_that_fall_together_keep_a_displacement(tmp_path):
    model, batch = tanh_mlp()
    groups = [{"params": model.get_submodule(k).parameters(), "lr": lr} for k, lr in (("first", 0.03), ("head", 0.1))]
    optimizer = SGD(groups)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=9, horizon=8, horizons=1) as tracker:
        for _ in range(9):
            steps(optimizer, tracker.loss, [batch])
            scheduler.step()
    assert "horizon_withheld" not in kinds(tracker.run)
    errors = [at(tracker.run, 0, "position_error", f"order-{k}") for k in (0, 1, 2)]
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 5


def data() -> TensorDataset:
    g = torch.Generator().manual_seed(5)
    return TensorDataset(torch.randn(48, 4, generator=g), torch.randint(3, (48,), generator=g))


@pytest.mark.parametrize("settings", [{}, {"product": "difference"}, {"bars": False}], ids=str)
def test_a_mini_batch_record_looks_ahead_on_its_own_batch_and_order_one_is_much_closer(tmp_path, settings):
    model, _ = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    thetas = {}
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, **settings) as tracker:
        for epoch in range(5):
            for i, batch in enumerate(loader):
                thetas[4 * epoch + i] = eom.Objective(model, cross_entropy, batch).theta(), batch
                steps(optimizer, tracker.loss, [batch])
    run = tracker.run
    assert sources(run) == {"look-ahead", "order-0", "order-1"}
    assert not kinds(run)
    errors: dict[int, list[float]] = {k: [] for k in (0, 1)}
    for step in (0, 5, 10, 15):
        theta, batch = thetas[step]
        field = eom.gradient_flow(eom.Objective(model, cross_entropy, batch, 0.01))
        exact = eom.corrected(field, eom.Euler(), LR, 6, "log-map")(0.0, theta)
        wanted = 2 * float(theta @ exact)
        assert at(run, step, "norm_squared_rate", "look-ahead") == pytest.approx(wanted, rel=1e-5)
        assert at(run, step, "norm_squared_rate", "order-0") == pytest.approx(
            2 * float(theta @ field(0.0, theta)), rel=1e-11
        )
        for k, found in errors.items():
            found.append(abs(at(run, step, "norm_squared_rate", f"order-{k}") - wanted))
    assert sum(errors[1]) < sum(errors[0]) / 20


@pytest.mark.slow
def test_displacements_of_an_epoch_are_compared_with_the_flows_of_the_whole_data(tmp_path):
    def run_with(lr: float) -> eom.Run:
        model, _ = tanh_mlp()
        optimizer = SGD(model.parameters(), lr=lr)
        torch.manual_seed(1)
        loader = DataLoader(data(), batch_size=12, shuffle=True)
        whole = DataLoader(data(), batch_size=24)
        settings: dict[str, Any] = {"every": 4, "horizon": 4, "horizons": 4, "data": whole}
        with eom.track(model, optimizer, cross_entropy, tmp_path / f"{lr}", **settings) as tracker:
            for _ in range(4):
                steps(optimizer, tracker.loss, loader)
        return tracker.run

    run = run_with(LR)
    assert not kinds(run) - {"horizon_incomplete"}
    table = run.table()
    displaced = table[(table.quantity == "norm_squared_displacement") & (table.group == "all")]
    assert sorted(set(displaced.step)) == [8]
    moved = at(run, 12, "norm_squared") - at(run, 8, "norm_squared")
    assert at(run, 8, "norm_squared_displacement") == pytest.approx(moved, rel=1e-10)
    assert at(run, 8, "norm_squared_displacement", "order-1") == pytest.approx(moved, rel=0.2)
    # one epoch visits every sample once: it differs from the flow of the whole data with power two of the step
    order = eom.testing.observed_order(lambda lr: at(run_with(lr), 8, "position_error", "order-1"), [0.02, 0.01, 0.005])
    assert order == pytest.approx(2, abs=0.2)


def test_displacements_of_mini_batches_are_withheld_without_the_whole_data(tmp_path):
    model, _ = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)

    def epoch(step, tracker):
        steps(optimizer, tracker.loss, DataLoader(data(), batch_size=12))

    with pytest.warns(TrackingWarning, match="for mini-batch training pass data="):
        run = train(tmp_path / "run", model, optimizer, epoch, count=3, every=4, horizon=4, horizons=1)
    assert not {q for q in set(run.table().quantity) if "displacement" in q or q == "position_error"}
    assert messages(run, "horizon_withheld")


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(4, 12), nn.Dropout(0.4), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.first(x))))


@pytest.mark.parametrize("observed", [False, True], ids=["loss", "observe"])
@pytest.mark.parametrize("settings", [{}, {"product": "difference"}], ids=str)
def test_dropout_is_looked_ahead_with_the_mask_of_its_own_step(tmp_path, observed, settings):
    torch.manual_seed(0)
    model, batch = Dropped(), tanh_mlp()[1]
    optimizer = SGD(model.parameters(), lr=LR)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5, **settings) as tracker:
        for _ in range(12):
            optimizer.zero_grad()
            if observed:
                tracker.observe(batch)
            (cross_entropy(model, batch) if observed else tracker.loss(batch)).backward()
            optimizer.step()
    run = tracker.run
    assert sources(run) == {"look-ahead", "order-0", "order-1"}
    assert not kinds(run)
    for step in (0, 5, 10):
        assert at(run, step, "update_mismatch") < 1e-12
        exact = at(run, step, "norm_squared_rate", "look-ahead")
        errors = [abs(at(run, step, "norm_squared_rate", f"order-{k}") - exact) for k in (0, 1)]
        assert errors[1] < errors[0] / 5


def test_an_equal_batch_in_a_new_tensor_is_the_same_batch(tmp_path):
    model, (x, labels) = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:
        steps(optimizer, tracker.loss, ((x.clone(), labels.clone()) for _ in range(20)))
    assert tracker.run.table().equals(tracked(tmp_path / "same").table())


@pytest.mark.parametrize(
    "batch_of",
    [
        lambda x, labels, step: (x, labels, 1.0 + 0.1 * step),
        lambda x, labels, step: {"x": x, "labels": labels, "note": str(step)},
        lambda x, labels, step: (x, labels, object()),
        lambda x, labels, step: (x.numpy() * (1 + step), labels),
    ],
    ids=["number", "text", "object", "numpy"],
)
def test_whatever_else_is_in_a_batch_tells_batches_apart(tmp_path, batch_of):
    def loss_fn(model: nn.Module, batch) -> Tensor:
        x, labels = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch[:2]
        scale = batch[2] if isinstance(batch, tuple) and isinstance(batch[-1], float) else 1.0
        return scale * cross_entropy(model, (torch.as_tensor(x), labels))

    model, (x, labels) = tanh_mlp()
    optimizer = SGD(model.parameters(), lr=LR)
    with eom.track(model, optimizer, loss_fn, tmp_path / "run", every=5) as tracker:
        steps(optimizer, tracker.loss, (batch_of(x, labels, step) for step in range(20)))
    assert sources(tracker.run) == {"look-ahead", "order-0", "order-1"}


def test_a_buffer_that_numpy_refills_is_seen_as_another_batch(tmp_path):
    """Torch does not count numpy's writes."""
    model, (x, labels) = tanh_mlp()
    memory = x.numpy().copy()
    optimizer = SGD(model.parameters(), lr=LR)
    with eom.track(model, optimizer, cross_entropy, tmp_path / "run", every=5) as tracker:
        for _ in range(12):
            memory *= 1.05
            steps(optimizer, tracker.loss, [(torch.from_numpy(memory), labels)])
    assert not {"measured", "look-ahead"} & sources(tracker.run, step=0)
    assert any("written to in place" in m for m in messages(tracker.run, "batch_rewritten"))
