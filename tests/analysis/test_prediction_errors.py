"""Errors and medians on runs whose errors were put in by hand."""

import math

import numpy as np
import pytest
from synthetic import ERRORS, LAYERS, RADIUS, RESOLUTION, STABILITY, WEIGHTS, rate, synthetic_run, wobble

from eom.analysis.errors import edge, gain, layer_table, prediction_errors
from eom.analysis.reading import Reading
from eom.records import Row, RunWriter, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", steps=STABILITY)


def written(path, rows, **manifest):
    with RunWriter.create(path, manifest) as writer:
        writer.append(rows)
    return open_run(path)


def row(source, value, bar=None, step=0, group="w", quantity="q_rate"):
    return Row(step, 0.1 * step, group, quantity, source, value, bar)


def test_every_error_is_the_one_put_in(run):
    errors = prediction_errors(run, "norm_squared_rate")
    assert len(errors) == 40 * 7 * 2
    layers = errors.loc[errors.group != "all"]
    for e in layers.itertuples():
        place = LAYERS.index(e.group)
        size = ERRORS[e.source] * abs(rate(place, e.step))
        assert e.reference == rate(place, e.step)
        assert e.error == pytest.approx(size * wobble(place, e.step), rel=1e-7)
        assert e.flow == pytest.approx(ERRORS["order-0"] / ERRORS[e.source] * e.error, rel=1e-5)
    assert (errors.resolved == 1).all()
    assert (errors.covered == 1).all()


def test_a_table_gives_the_same_errors_as_its_run(run):
    from_run, from_table = prediction_errors(run), prediction_errors(run.table())
    assert from_run.equals(from_table)


def test_medians_by_layer_are_those_of_the_errors(run):
    table = layer_table(run)
    assert list(table.index.unique("group")) == [*LAYERS, "all"]
    steps = range(0, STABILITY, 10)
    for place, group in enumerate(LAYERS):
        sizes = [abs(rate(place, s)) for s in steps]
        found = table.loc[(group, "order-1")]
        expected = np.median([1e-4 * size * wobble(place, s) for size, s in zip(sizes, steps, strict=True)])
        assert found.error == pytest.approx(expected, rel=1e-6)
        assert found.magnitude == pytest.approx(np.median(sizes))
        assert found.measured == pytest.approx(np.median([rate(place, s) for s in steps]))
        assert found.predicted == pytest.approx(found.measured, rel=1e-3)
        assert found.bar == pytest.approx(1e-4 * np.median(sizes))
        assert found.measured_bar == pytest.approx(RESOLUTION * np.median(sizes))
        assert found.over_flow == pytest.approx(1e-4 / 2e-2, rel=1e-5)
        assert (found.records, found.resolved, found.covered) == (40, 1, 1)


def test_the_gain_over_gradient_flow_is_the_ratio_of_the_errors(run):
    won = gain(prediction_errors(run))
    assert won.median == pytest.approx(1e-4 / 2e-2, rel=1e-5)
    assert won.p90 == pytest.approx(1e-4 / 2e-2, rel=1e-4)
    assert (won.share, won.records) == (1.0, 40 * 7)


def test_the_gain_counts_only_where_gradient_flow_has_an_error_to_speak_of(tmp_path):
    rows = []
    for step, flow in enumerate([2e-2, 5e-3, 5e-3]):
        bar = 1e-9 if step == 1 else 1e-3  # at step 1 half a per cent is resolved a million times over
        rows += [row("measured", 1.0, bar, step), row("order-0", 1 + flow, None, step)]
        rows += [row("order-1", 1 + flow / 10, None, step)]
    won = gain(prediction_errors(written(tmp_path / "run", rows), "q_rate"))
    assert won.median == pytest.approx(0.1)
    assert (won.share, won.records) == (2 / 3, 3)


def test_the_reference_is_measured_where_finite_and_else_the_look_ahead(tmp_path):
    rows = [row("measured", 1.0, 0.1), row("look-ahead", 5.0), row("order-0", 3.0)]
    rows += [row("measured", math.nan, step=1), row("look-ahead", 5.0, 0.2, step=1), row("order-0", 3.0, step=1)]
    rows += [row("look-ahead", 7.0, step=2), row("order-0", 3.0, step=2)]
    rows += [row("order-0", 3.0, step=3)]  # nothing to compare it with
    errors = prediction_errors(written(tmp_path / "run", rows), "q_rate")
    assert list(errors.error) == [2.0, -2.0, -4.0]
    assert list(errors.reference_source) == ["measured", "look-ahead", "look-ahead"]
    assert list(errors.reference_bar)[:2] == [0.1, 0.2]


def test_a_position_is_compared_with_the_run_itself(tmp_path):
    rows = [row("order-0", 0.5, 0.4, quantity="position_error")]
    errors = prediction_errors(written(tmp_path / "run", rows), "position_error")
    assert list(errors.error) == [0.5]
    assert list(errors.covered) == [1]


@pytest.mark.parametrize(
    ("error", "bar", "margin", "resolved", "covered"),
    [(2.5, 1.0, 0.4, 1, 0), (2.5, 1.0, 0.6, 1, 1), (0.5, 1.0, 0.6, 0, 1), (2.5, None, 0.4, 1, None),
     (2.5, math.inf, None, 1, 1), (math.nan, 1.0, 0.1, None, None)],
)  # fmt: skip
def test_resolved_and_covered_are_by_the_bars(tmp_path, error, bar, margin, resolved, covered):
    run = written(tmp_path / "run", [row("measured", 1.0, margin), row("order-0", 1 + error, bar)])
    [found] = prediction_errors(run, "q_rate").to_dict("records")
    for name, expected in (("resolved", resolved), ("covered", covered)):
        assert found[name] == expected if expected is not None else math.isnan(found[name])


def test_one_layer_of_two_in_the_layer_named_nan(tmp_path):
    rows = [row(source, value, group=group) for group in ("nan", "") for source, value in
            (("measured", 1.0), ("order-0", 2.0))]  # fmt: skip
    assert list(layer_table(written(tmp_path / "run", rows), "q_rate").index.unique("group")) == ["nan", ""]


def test_lr_times_sharpness_is_carried_between_its_records(run):
    found = edge(run)
    at = found.path.set_index("step").value
    assert at[100] == at[140] == 0.5
    assert at[150] == 0.75
    assert (found.radius, found.stability) == (RADIUS, None)


def test_the_edge_is_where_it_was_put(tmp_path):
    found = edge(synthetic_run(tmp_path / "run"))
    assert (found.radius, found.stability) == (RADIUS, STABILITY)


def test_the_edge_follows_a_changed_learning_rate(tmp_path):
    rows = [row("measured", 8.0, quantity="sharpness", group="all")]
    rows += [row("measured", lr, step=step, quantity="lr", group="all") for step, lr in enumerate([0.1, 0.2, 0.3])]
    found = edge(written(tmp_path / "run", rows))
    assert list(found.path.value) == pytest.approx([0.8, 1.6, 2.4])
    assert (found.radius, found.stability) == (1, 2)


def test_a_run_without_sharpness_has_no_edge(tmp_path):
    found = edge(written(tmp_path / "run", [row("measured", 0.1, quantity="lr", group="all")]))
    assert found.path.empty
    assert (found.radius, found.stability) == (None, None)


def test_layers_are_the_weights_in_the_models_order(run):
    assert Reading.of(run).layers == WEIGHTS
