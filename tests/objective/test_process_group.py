"""One objective over several processes is the one that a single process with all of the data has."""

import pytest
from ranks import together


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_uneven_shards_give_what_one_process_gives(tmp_path, world):
    """To 1e-12 per evaluation; what chains evaluations, or differences them, to the rounding of its own kind."""
    loose = {"H v by differences": 1e-6, "flow": 1e-9, "sharpness": 1e-9, "order 3 by the log map": 1e-11}
    for found in together("agree", world, tmp_path):
        assert len(found) == 12
        for name, difference in found.items():
            assert difference <= loose.get(name, 1e-12), name


@pytest.mark.slow
def test_what_ranks_cannot_do_together_is_refused_on_every_one_of_them(tmp_path):
    empty = "DataError: data holds no batch; expected at least one"
    messages = together("refused", 2, tmp_path)
    assert [found["an empty part"] for found in messages] == [f"RankError: rank 1 has no objective: {empty}", empty]
    for found in messages:
        assert "ParametersError: rank 1 holds other parameters than rank 0" in found["another start"]
        assert "RankError: the ranks ask for derivatives at different theta" in found["another point"]
        for name in ("another order of the same", "nearly the same point"):
            assert "RankError: the ranks ask for derivatives at different theta" in found[name]
        for name in ("another method", "another precision"):
            assert "RankError: the ranks ask for different things, this one for the" in found[name]
        assert "SettingError: rank 1 has another decay, product or frozen parameters" in found["other frozen weights"]
        assert "different things, this one for H v of expansion" in found["another expansion"]
        assert "different things, this one for sharpness(k=" in found["other eigenvalues"]
        assert (
            "SettingError: rank 1 has another decay, product or frozen parameters than rank 0" in found["another decay"]
        )
        assert "RankError: the ranks ask for derivatives at different v" in found["another direction"]
        assert "the data has a part on every rank" in found["batch statistics"]
        assert 'product="compiled" runs in one process' in found["compiled"]
        assert "SettingError: process_group is 3, expected a torch.distributed group" in found["no group"]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_where_a_rank_dies_the_others_end_with_an_error_that_names_it(tmp_path, world):
    for found in together("dies", world, tmp_path, lost=(1,)):
        assert f"RankError: rank 1 of {world} has ended" in found["gradient"]


@pytest.mark.slow
def test_an_error_of_the_loss_on_one_rank_is_told_to_the_others_and_the_group_goes_on(tmp_path):
    first, second = together("failing", 2, tmp_path)
    assert first["error"] == "RankError: the loss cannot be had on all ranks: rank 1 raised ArithmeticError: mine"
    assert second["error"] == "ArithmeticError: mine"
    assert first["after"] == second["after"] > 0


@pytest.mark.slow
def test_derivatives_that_are_wrong_on_one_rank_are_taken_by_the_same_route_on_all(tmp_path):
    found = together("tested", 2, tmp_path)
    assert [one["product"] for one in found] == ["difference", "difference"]
    assert found[0]["hvp"] == found[1]["hvp"]
