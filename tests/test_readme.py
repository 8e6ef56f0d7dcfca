"""The README's Python runs as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(README.parent / "data")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S):
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "runs/first/report.html").stat().st_size > 10_000
    table = names["eom"].open_run("runs/first").table()
    assert {"measured", "order-0", "order-1"} <= set(table["source"])
    resumed = names["eom"].open_run("runs/second")
    assert sorted(resumed.table()["step"].unique()) == list(range(0, 100, 10))
    assert not resumed.table().duplicated(["step", "group", "quantity", "source"]).any()
