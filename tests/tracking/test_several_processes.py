"""A training in DistributedDataParallel is followed by all ranks together, and written by the first."""

import numpy as np
import pandas as pd
import pytest
import ranks
import torch
from ranks import together

import eom

KEY = ["step", "group", "quantity", "source"]


def integrated(rows: pd.DataFrame) -> pd.Index:
    """The displacements among rows."""
    return rows.index[rows.index.get_level_values("quantity").str.contains("displacement|position")]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_the_record_is_that_of_one_process_which_descends_the_mean_of_the_losses(tmp_path, world):
    found = together("tracked", world, tmp_path)
    run, alone = eom.open_run(tmp_path / "run"), ranks.alone(world, tmp_path)
    assert not run.events().kind.isin(["failed", "update_mismatch", "horizon_withheld"]).any(), run.events()
    table, own = (r.table().set_index(KEY).sort_index() for r in (run, alone))
    assert table.index.equals(own.index)
    for source, limit in (("measured", 1e-9), ("order-0", 1e-11), ("order-1", 1e-11)):
        rows = table.loc[table.index.get_level_values("source") == source]
        rows = rows.loc[~rows.index.get_level_values("quantity").isin(["update_mismatch"])]
        expected = own.loc[rows.index]
        scale = expected.value.abs().groupby("quantity").transform("max")
        # displacements are integrated to a hundredth of what their order leaves out
        allowed = limit * scale + (0.01 * expected.bar.fillna(0.0)).where(rows.index.isin(integrated(rows)), 0.0)
        assert ((rows.value - expected.value).abs() <= allowed).all(), source
    assert {"norm_squared_displacement", "sharpness", "norm_squared_rate"} <= set(run.table().quantity)
    assert run.manifest["self_test"]
    assert all(np.array_equal(one["with"], found[0]["with"]) for one in found)
    assert all(one["with"] == one["without"] for one in found)  # bit for bit


@pytest.mark.slow
def test_where_a_rank_dies_the_run_is_kept_and_the_training_ends_with_an_error(tmp_path):
    (found,) = together("dies_in_training", 2, tmp_path, lost=(1,))
    assert "onnection" in found["error"]
    assert "eom: rank 1 of 2 did not answer" in found["notes"]
    run = eom.open_run(tmp_path / "run")
    assert run.table().step.max() >= 36
    assert "finished" not in run.manifest
    assert run.events().kind.iloc[-1] in ("interrupted", "failed")


@pytest.mark.slow
def test_a_rank_whose_batch_cannot_be_remembered_leaves_the_training_as_it_is(tmp_path):
    for found in together("fails_in_training", 2, tmp_path):
        assert found["with"] == found["without"]
    run = eom.open_run(tmp_path / "run")
    assert run.table().step.max() >= 18
    assert run.events().message.str.contains("rank 1 of 2 did not answer").any()


def test_one_rank_alone_is_followed_as_ever(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ranks.trained(0, 2, tmp_path)
    finally:
        torch.distributed.destroy_process_group()
    table = eom.open_run(tmp_path / "run").table()
    assert {"measured", "order-0", "order-1"} <= set(table.source)
