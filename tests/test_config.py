"""Every configuration key is read by some code, and configs only differ by keys."""

import ast
import importlib
import pathlib

import ml_collections
import pytest

from data_synthesis.config import default_config as synthesis_config
from gve_jax.config import default_config

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem[0] != "_")


def attribute_names() -> set[str]:
    """Names read as `x.name` or named in strings, outside config files."""
    names = set()
    for folder in ("gve_jax", "eval", "data_synthesis"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == ROOT / "gve_jax" / "config.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    names.add(node.attr)
                elif isinstance(node, ast.AnnAssign) and isinstance(
                    node.target, ast.Name
                ):
                    names.add(node.target.id)  # dataclass fields filled by name
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.add(node.value)
    return names


def leaves(config, prefix=""):
    for key in config:
        value = config.get(key)
        if isinstance(value, ml_collections.ConfigDict) and len(value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_key_is_read_somewhere():
    read = attribute_names()
    unread = [k for k in leaves(default_config()) if k.split(".")[-1] not in read]
    assert not unread


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_only_change_known_keys(name, tmp_path):
    arguments = []
    if name == "finetune":
        arguments = [str(tmp_path / "pairs.jsonl")]
        (tmp_path / "pairs.jsonl").write_text('{"video": "a.mp4", "text": "a"}\n')
    # Without an arm these are studies.
    arm = {"ablation_world": "pyramid", "synthesis_study": "synthesised"}.get(name)
    if arm:
        arguments = [arm]
    config = importlib.import_module(f"configs.{name}").get_config(*arguments)
    synthesis = name.startswith("synthesis") and not arm
    known = set(leaves(synthesis_config() if synthesis else default_config()))
    free = tuple(
        f"data.{key}." for key in ("tasks", "batch_sizes", "nums_negatives", "corpora")
    )
    extra = [k for k in leaves(config) if k not in known and not k.startswith(free)]
    assert not extra
