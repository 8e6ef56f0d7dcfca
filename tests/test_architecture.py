"""The floors of the house: imports go downward, and what is heavy is imported where it is used."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import eom

ROOT = Path(eom.__file__).parent
FLOORS: dict[str, set[str]] = {  # what each part may import
    "errors": set(),
    "calculus": {"errors"},
    "records": {"errors"},
    "dynamics": {"errors", "calculus"},
    "objective": {"errors", "calculus", "dynamics"},
    "training": {"errors", "calculus", "dynamics", "objective"},
    "stochastic": {"errors", "calculus", "dynamics", "objective"},
    "physics": {"errors", "calculus", "dynamics"},
    "prediction": {"errors", "calculus", "dynamics", "objective", "training"},
    "tracking": {"errors", "calculus", "dynamics", "objective", "training", "prediction", "records"},
    "analysis": {"errors", "records"},
    "sweeps": {"errors", "objective", "stochastic", "records", "tracking", "analysis"},
    "testing": {"errors"},
}
TOP = {
    *("__init__", "__main__", "cli", "demo", "checking", "stochastic_demo", "sweeping", "target"),
    *("motions", "picturing", "physics_demo", "physics_findings", "physics_page"),
}
FILES = sorted(ROOT.rglob("*.py"))


def imported(file: Path, *, lazily: bool = True) -> Iterator[str]:
    """Dotted names of the modules that a file imports, TYPE_CHECKING blocks left out."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if not lazily and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    """The part of the package that a dotted name below ``eom`` belongs to."""
    return module.split(".")[1]


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def test_every_file_has_its_floor():
    assert {part_of(f) for f in FILES} <= set(FLOORS) | TOP


@pytest.mark.parametrize("name", FLOORS)
def test_imports_go_downward_only(name):
    for file in (f for f in FILES if part_of(f) == name):
        used = {part(m) for m in imported(file) if m.startswith("eom.")} - {name}
        assert used <= FLOORS[name], f"{file.relative_to(ROOT)} imports from {sorted(used - FLOORS[name])}"


def test_nothing_imports_the_top_but_the_top():
    for file in FILES:
        if part_of(file) not in TOP:
            assert not {part(m) for m in imported(file) if m.startswith("eom.")} & TOP


def test_no_modules_import_each_other():
    graph = {}
    for file in FILES:
        name = ".".join(("eom", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = set(imported(file, lazily=False))
    graph = {
        k: {m for m in graph if m != k and any(x == m or x.startswith(m + ".") for x in v)} for k, v in graph.items()
    }
    packages = {m for m in graph if any(k.startswith(m + ".") for k in graph)}
    graph = {k: v - packages for k, v in graph.items() if k not in packages}
    while leaves := {k for k, v in graph.items() if not v & set(graph)}:
        graph = {k: v for k, v in graph.items() if k not in leaves}
    assert not graph, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize("name", ["records", "analysis"])
def test_records_and_analysis_import_no_torch(name):
    for file in (f for f in FILES if part_of(f) == name):
        assert not {m.split(".")[0] for m in imported(file)} & {"torch", "torchdiffeq"}, file


def test_dynamics_and_calculus_know_no_networks():
    """The exceptions name the fused operations that they swap, and write them anew."""
    swaps = {"exact.py", "compositions.py", "norms.py", "pair_compositions.py", "pair_recurrences.py"}
    for file in (f for f in FILES if part_of(f) in ("dynamics", "calculus") and f.name not in swaps):
        assert not {m for m in imported(file) if m.startswith("torch.nn")}, file


def test_seaborn_and_matplotlib_are_imported_in_one_file_only():
    users = {
        f.relative_to(ROOT).as_posix()
        for f in FILES
        if {m.split(".")[0] for m in imported(f)} & {"seaborn", "matplotlib"}
    }
    assert users <= {"analysis/drawing.py"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``statement``."""
    code = f"import sys\n{statement}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "pandas", "numpy", "scipy", "seaborn", "matplotlib", "sklearn"}


@pytest.mark.parametrize("module", ["eom", "eom.cli"])
def test_the_package_and_its_command_line_load_nothing_heavy(module):
    if module == "eom.cli" and not (ROOT / "cli.py").exists():
        pytest.skip("no command line yet")
    assert not loaded_by(f"import {module}") & HEAVY


@pytest.mark.parametrize("module", ["eom.records", "eom.analysis"])
def test_reading_and_reporting_a_run_loads_no_torch(module):
    names = [m.stem for m in sorted((ROOT / part(module + ".")).glob("*.py")) if m.stem != "__init__"]
    assert "torch" not in loaded_by("\n".join(f"import {module}.{m}" for m in names))


def test_every_public_name_is_there():
    for name in eom.__all__:
        assert getattr(eom, name) is not None
    assert set(eom.__all__) == set(dir(eom))


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'eom' has no attribute 'nope'"):
        _ = eom.nope  # type: ignore


@pytest.mark.parametrize("space", ["eom.stochastic", "eom.physics"])
def test_every_name_of_a_namespace_is_there_and_no_module_hides_one(space):
    """A module of the same name would take a function's place as soon as it is imported."""
    module = importlib.import_module(space)
    for file in (ROOT / space.split(".")[1]).glob("*.py"):
        if file.stem != "__init__":
            importlib.import_module(f"{space}.{file.stem}")
    assert set(module.__all__) == set(dir(module)) == set(module._HOME)
    for name in module.__all__:
        assert not isinstance(getattr(module, name), ModuleType), name
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = module.nope


def test_a_namespace_loads_nothing_heavy():
    assert not loaded_by("import eom.stochastic") & HEAVY
