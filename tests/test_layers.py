"""The layers of the package, read from its imports."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Module (or package) -> its rank; a module imports only from lower ranks or itself.
RANK = {
    "types": 0,
    "progress": 0,
    "contract": 1,
    "config": 1,
    "main": 1,
    "disk": 1,
    "page": 1,
    "presets": 2,
    "media": 2,
    "distributed": 2,
    "embeddings": 2,
    "sharding": 2,
    "losses": 3,
    "retrieval": 2,
    "preprocess": 3,
    "model": 3,
    "data": 4,
    "hub": 4,
    "checkpoint": 4,
    "build": 5,
    "restore": 6,
    "embed": 7,
    "generate": 7,
    "generate_serve": 8,
    "mine": 8,
    "export": 7,
    "train": 9,
    "plan": 10,
    "ablate": 10,
    "index": 9,
    "doctor": 10,
    "completion": 10,
    "cli": 11,
}


def imports_of(path: pathlib.Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def python_files(*folders: str) -> list[pathlib.Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


def layer(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "gve_jax").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", python_files("gve_jax"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_downwards(path):
    own = layer(path)
    if own == "__init__":
        return
    assert own in RANK, f"{own} has no layer: add it to RANK and to the design"
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "gve_jax" and len(parts) > 1 and parts[1] in RANK:
            other = parts[1]
            assert other == own or RANK[other] < RANK[own], f"{path} imports {name}"


def roots(path: pathlib.Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize(
    "folders, forbidden",
    [
        (("gve_jax",), {"eval", "configs", "data_synthesis"}),
        (("gve_jax", "eval", "configs", "data_synthesis"), {"tests"}),
        (("gve_jax", "configs", "data_synthesis"), {"torch"}),
        (
            ("gve_jax/media", "gve_jax/preprocess", "data_synthesis"),
            {"jax", "jaxlib", "flax", "optax", "orbax"},
        ),
    ],
)
def test_forbidden_imports(folders, forbidden):
    for path in python_files(*folders):
        found = roots(path) & forbidden
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_only_bridges_to_other_models_import_torch():
    """Models of others need what they were written in: an extra, not a dependency."""
    bridges = [ROOT / "eval" / name for name in ("encoders", "mteb_bridge")]
    for path in python_files("eval"):
        if not any(bridge in path.parents for bridge in bridges):
            assert "torch" not in roots(path), path.relative_to(ROOT)


def test_files_stay_readable():
    for path in python_files("gve_jax", "eval", "configs", "data_synthesis"):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines"
