"""Each study with claims runs small and finds what its expected.json says; the long runs too, marked slow."""

import importlib.util
import json
from pathlib import Path

import pytest

STUDIES = sorted(p.parent for p in (Path(__file__).parents[1] / "studies").glob("*/expected.json"))


def claims(study: Path) -> dict[str, dict]:
    """{"small" or "full": {claim: [low, high]}}; without "full" where that takes hours, as the study's README says."""
    return json.loads((study / "expected.json").read_text())


def run(study: Path, *, small: bool) -> dict[str, float]:
    spec = importlib.util.spec_from_file_location(study.name, study / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(small=small)


def compare(study: Path, size: str) -> None:
    """Each claim lies within its stated interval [low, high]."""
    wanted = claims(study)[size]
    found = run(study, small=size == "small")
    assert found.keys() == wanted.keys()
    outside = {k: (found[k], bounds) for k, bounds in wanted.items() if not bounds[0] <= found[k] <= bounds[1]}
    assert not outside


# 7 seconds or more each
LONG = {"learned_mechanics", "learned_lattices", "pixel_pendulum", "modified_energy", "norm_rates_digits"}


@pytest.mark.parametrize(
    "study",
    [pytest.param(s, marks=[pytest.mark.slow] if s.name in LONG else []) for s in STUDIES],
    ids=lambda p: p.name,
)
def test_small_study_finds_what_it_claims(study):
    compare(study, "small")


@pytest.mark.slow
@pytest.mark.parametrize("study", [s for s in STUDIES if "full" in claims(s)], ids=lambda p: p.name)
def test_full_study_finds_what_it_claims(study):
    compare(study, "full")
