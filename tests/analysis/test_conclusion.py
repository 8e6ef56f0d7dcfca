"""The sentences hold the right numbers, also for runs that went wrong."""

import math

import pytest
from synthetic import LAYERS, LR, STABILITY, manifest, rows_at, synthetic_run

from eom.analysis.conclusion import conclusion
from eom.analysis.words import label, number, numbers, percent, quantity_name
from eom.records import Row, RunWriter, open_run


def written(path, rows, **manifest):
    with RunWriter.create(path, manifest) as writer:
        writer.append(rows)
    return open_run(path)


def test_the_numbers_of_a_layer_stand_in_one_sentence(tmp_path):
    # one record, so that medians are the numbers themselves
    rows = [
        Row(0, 0.0, "conv2", "norm_squared_rate", "measured", -0.02, 1e-9),
        Row(0, 0.0, "conv2", "norm_squared_rate", "order-0", -0.02 + 3.1e-4, 3e-4),
        Row(0, 0.0, "conv2", "norm_squared_rate", "order-1", -0.02 - 6e-7, 5e-7),
    ]
    text = conclusion(written(tmp_path / "run", rows))
    assert text[0] == "1 record at step 0."
    assert text[1] == (
        "Gradient flow misses d|w|²/dt of conv2 by 3.1e-4 per unit time (1.55 % of the rate), "
        "order 1 by 6e-7 per unit time; the measurement's own bar is 1e-9."
    )
    assert "The error of order 1 is 0.194 % of gradient flow's in the median" in text[4]


def test_an_error_below_the_measurement_is_not_called_resolved(tmp_path):
    rows = [
        Row(0, 0.0, "w", "norm_squared_rate", "measured", 1.0, 1e-5),
        Row(0, 0.0, "w", "norm_squared_rate", "order-0", 1.1, 0.1),
        Row(0, 0.0, "w", "norm_squared_rate", "order-1", 1.0 + 1e-7, 1e-7),
    ]
    text = conclusion(written(tmp_path / "run", rows))
    assert "order 1 by no more than can be measured; the measurement's own bar is 1e-5" in text[1]
    assert "the error of order 1 is larger than the measurement's bar in 0 % of the cases" in text[3]


def test_beyond_the_edge_it_says_that_the_prediction_stopped_holding(tmp_path):
    text = conclusion(synthetic_run(tmp_path / "run"))
    *_, radius, edge = text
    assert "reached 1, where the log map need not converge any more, by step 200" in radius
    assert radius.endswith("the prediction still held.")
    assert "reached 2, the edge of stability, by step 400" in edge
    assert "the bar of order 1 is 29.8 % (where it is below 1: 0.01 %) of the rate" in edge
    assert "the prediction stopped holding in 65 % (where it is below 1: 0 %) of the cases" in edge  # steps 470 to 590
    assert text[1] == "The next numbers are from the 20 of 60 records that are below lr × sharpness = 1."


def test_below_the_edge_it_says_nothing_of_it(tmp_path):
    text = " ".join(conclusion(synthetic_run(tmp_path / "run", steps=150)))
    assert "reached" not in text
    assert "The sharpness was measured at 3 of 15 records" in text
    assert "After 20 steps the weights of gradient flow end" in text


def test_predictions_that_end_at_the_edge_are_missed(tmp_path):
    rows = [row for step in range(0, 600, 10) for row in rows_at(step, LAYERS)]
    rows = [row for row in rows if row.step < STABILITY or row.source == "measured"]
    text = conclusion(written(tmp_path / "run", rows))
    assert "by step 400: there are no predictions at or above 2." in text[-1]


def test_a_run_that_was_beyond_the_edge_from_the_start_has_no_before(tmp_path):
    rows = [row for step in range(450, 600, 10) for row in rows_at(step, LAYERS)]
    text = conclusion(written(tmp_path / "run", rows))
    assert "by step 450" in text[-1]
    assert "where it is below 1" not in text[-1]


def test_withheld_predictions_are_explained(tmp_path):
    rows = [Row(0, 0.0, "w", "norm_squared_rate", "measured", 1.0, 1e-9)]
    reason = "momentum is 0.9, and there is no field for it"
    text = conclusion(written(tmp_path / "run", rows, predictions={"withheld": reason}))
    assert text[1:] == [f"Predictions were withheld: {reason}. What was measured is unaffected."]


def test_a_run_without_predictions_says_so(tmp_path):
    text = conclusion(written(tmp_path / "run", [Row(0, 0.0, "all", "loss", "measured", 1.0)]))
    assert text[0] == "1 record at step 0; the loss was 1."
    assert text[1].startswith("The run holds no predictions")


def test_a_run_without_records_says_so(tmp_path):
    assert conclusion(written(tmp_path / "run", []))[0] == "The run holds no records yet."


def test_a_loss_that_became_nan_is_reported_with_its_step(tmp_path):
    losses = [2.0, 1.0, math.nan, math.inf]
    rows = [Row(10 * k, k * LR, "all", "loss", "measured", loss) for k, loss in enumerate(losses)]
    text = conclusion(written(tmp_path / "run", rows))
    assert text[0] == "4 records at steps 0 to 30; the loss went from 2 to 1."
    assert text[1] == "The loss is not finite in 2 records, first at step 20."


def test_values_that_are_nan_throughout_raise_nothing(tmp_path):
    rows = [row._replace(value=math.nan, bar=math.nan) for row in rows_at(0, LAYERS)]
    assert conclusion(written(tmp_path / "run", rows, **manifest(LAYERS)))


def test_a_look_ahead_is_named(tmp_path):
    rows = [row._replace(source="look-ahead") if row.source == "measured" and "rate" in row.quantity else row
            for row in rows_at(0, LAYERS)]  # fmt: skip
    text = " ".join(conclusion(written(tmp_path / "run", rows)))
    assert "In 100 % of the cases the run did not go on with steps like the record's own" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (3.14159e-4, "3.1e-4"), (-6e-7, "-6e-7"), (1234.0, "1230"), (12345.0, "1.2e4"),
     (9.96e-5, "1e-4"), (1e-310, "1e-310"), (math.nan, "not a number"), (-math.inf, "-infinite")],
)  # fmt: skip
def test_numbers_have_two_or_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [([0.0, 0.5, 1.0], ["0", "0.5", "1"]), ([-0.1071, -0.1072], ["-0.1071", "-0.1072"]), ([2.0, 2.0], ["2", "2"]),
     ([1.00001e-5, 1.00002e-5], ["1.00001e-5", "1.00002e-5"]), ([1e-5, 2e-5], ["1e-5", "2e-5"])],
)  # fmt: skip
def test_numbers_that_stand_together_have_as_many_digits_as_tell_them_apart(values, texts):
    assert numbers(values) == texts


def test_names_for_readers():
    assert percent(0.123456) == "12.3 %"
    assert quantity_name("norm_squared_rate") == "d|w|²/dt"
    assert quantity_name("charge_displacement") == "change of charge"
    assert label("a\nb\x1b<i>") == "a\\nb\\x1b<i>"
    assert label("") == '""'
    assert len(label("x" * 100, 20)) == 20
