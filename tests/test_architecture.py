"""Imports point down: a module imports only from its own floor or from those below it, and there is no circle."""

import ast
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = Path(__file__).parent.parent / "geoembed"
FLOORS = {
    0: {"errors", "numerics", "files", "config", "settings", "schedules", "pointsets", "distance", "blocks"},
    1: {"manifolds", "distances", "optim"},
    2: {"data", "losses", "models"},
    3: {
        "training",
        "averaging",
        "tasks",
        "graph_training",
        "distillation",
        "evaluation",
        "sampled_evaluation",
        "classification",
        "placement",
        "analysis",
        "checkpoint",
        "matrix_file",
        "pairwise",
        "flows",
        "hierarchy",
        "reconstruction",
        "neighbourhoods",
        "combinatorial",
        "nested",
        "quality",
        "retrieval",
        "codec",
        "codec_cells",
        "entailment",
    },
    4: {
        "run_folder",
        "runs",
        "jobs",
        "prediction",
        "export",
        "search",
        "report",
        "charts",
        "layout",
        "drawing",
        "heatmap",
        "plotting",
        "tilings",
        "hierarchy_runs",
        "hierarchy_jobs",
        "hierarchy_picture",
        "compare",
        "interop",
        "cli",
        "__main__",
        "__init__",
    },
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}


def imports() -> list[tuple[str, str]]:
    """(importing module, imported module) pairs within the package, those inside functions included."""
    pairs = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "geoembed":
                base = node.module.removeprefix("geoembed").lstrip(".")
                for alias in node.names:
                    target = f"{base}.{alias.name}".lstrip(".")
                    is_module = (PACKAGE / (target.replace(".", "/") + ".py")).exists() or (
                        PACKAGE / target.replace(".", "/") / "__init__.py"
                    ).exists()
                    pairs.append((name, target if is_module else base or "__init__"))
    return pairs


def test_every_module_has_a_floor():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert parts == set(FLOOR_OF)


def test_imports_point_down():
    upward = [
        (source, target)
        for source, target in imports()
        if source != "__init__" and FLOOR_OF[target.split(".")[0]] > FLOOR_OF[source.split(".")[0]]
    ]
    assert upward == []


def test_no_circles():
    graph = nx.DiGraph(pair for pair in imports() if "__init__" not in pair and pair[0] != pair[1])
    assert list(nx.simple_cycles(graph)) == []


def test_losses_and_models_do_not_know_the_rim():
    """`fit` knows neither graphs nor labels."""
    known = {target.split(".")[0] for source, target in imports() if source == "training"}
    assert known <= {"averaging", "checkpoint", "errors", "schedules"}


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--task", "hierarchy", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom geoembed.cli import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'ot', 'matplotlib', 'geoopt') if m in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_import_brings_neither_pot_nor_matplotlib():
    code = (
        "import sys, geoembed\nfrom geoembed import Distance, Run, evaluate, fit, load, train\n"
        "import geoembed.distances, geoembed.losses, geoembed.manifolds, geoembed.optim\n"
        "print([m for m in ('ot', 'matplotlib') if m in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_table_of_contents():
    import geoembed

    for name in geoembed.__all__:
        assert getattr(geoembed, name) is not None
    assert set(dir(geoembed)) == set(geoembed.__all__)
