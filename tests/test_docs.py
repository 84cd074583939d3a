"""What the documents name is there: links, messages, modules, Python."""

import ast
import functools
import importlib
import pathlib
import re
import xml.etree.ElementTree as ET

import pytest

from tests.test_layers import RANK

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
IDS = [str(path.relative_to(ROOT)) for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", link):
            assert (path.parent / link).exists(), link


def test_the_index_of_the_pages_has_all():
    linked = re.findall(r"\]\(([^)#]+)", (DOCS / "README.md").read_text("utf-8"))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(linked) == pages - {"README.md"}


@functools.cache
def templates() -> list[str]:
    """All texts of the sources, with NUL where a value is put in."""
    found = []
    for folder in ("gve_jax", "eval", "data_synthesis"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", "\0") for part in node.values]
                    found.append(
                        "".join(p if isinstance(p, str) else "\0" for p in parts)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def messages() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", text, re.M)


def test_troubleshooting_is_of_enough_messages():
    assert len(messages()) >= 25
    assert len(set(messages())) == len(messages())


@pytest.mark.parametrize("message", messages())
def test_messages_are_still_said(message):
    fixed = [re.escape(part.strip()) for part in message.split("...")]
    pattern = re.compile(r".*?".join(fixed), re.DOTALL)
    assert any(pattern.search(template) for template in templates())


def test_the_diagram_is_of_the_modules():
    """Each is there, and no row imports from one above it."""
    root = ET.parse(DOCS / "architecture.svg").getroot()
    texts = [node for node in root.iter() if node.get("class")]
    rows: dict[float, list[str]] = {}
    for node in texts:
        name = node.text
        if node.get("class") == "folder":
            assert (ROOT / name).is_dir(), name
            continue
        path = ROOT / "gve_jax" / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
        rows.setdefault(float(node.get("y")), []).append(name)
    assert len(rows) == 8
    above = [[RANK[name] for name in rows[y]] for y in sorted(rows)]
    for i, upper in enumerate(above):
        for lower in above[i + 1 :]:
            assert min(upper) > max(lower) or min(upper) == max(lower), (upper, lower)


def test_the_modules_of_the_architecture_are_there():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    for line in table[1:]:
        for name in re.findall(r"`([a-z_/]+)`", line.split("|")[2]):
            inside = ROOT / "gve_jax" / name
            found = [inside, inside.with_suffix(".py"), ROOT / name]
            assert any(path.exists() for path in found), name


def paths_named(path: pathlib.Path) -> set[str]:
    """Files of the project in code spans: with a folder of the checkout before them."""
    text = path.read_text(encoding="utf-8")
    folders = "gve_jax|eval|tests|data_synthesis|configs|benchmarks"
    return set(re.findall(rf"`((?:{folders})/[\w/.]+)", text))


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_files_that_are_named_exist(path):
    for name in paths_named(path):
        assert (ROOT / name.rstrip(".")).exists(), name


def blocks() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), block)
        for path in PAGES
        for block in re.findall(
            r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S
        )
    ]


@pytest.mark.parametrize("page, block", blocks())
def test_python_imports_what_there_is(page, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
            "gve_jax",
            "eval",
        ):
            if "mteb_bridge" in node.module:  # an extra
                assert (ROOT / (node.module.replace(".", "/") + ".py")).is_file()
                continue
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
