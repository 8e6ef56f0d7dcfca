"""Runs that several tests compare."""

import pytest
from planted import planted

from eom.records import Run


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    return [planted(tmp_path / f"lr-{lr}", lr) for lr in (0.3, 0.01, 0.05, 0.02)]
