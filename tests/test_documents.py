"""The Markdown files: links lead somewhere, examples run, and pages keep to their length."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bench", "cpp", "docs", "examples", "python", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text()]
NEEDS = {"jax.md": ("bnfast.jax", "flax")}  # pages that are skipped where these are not
NEEDS_GPU = {"cuda.md"}
WITH_DOCTESTS = [page for page in PAGES if ">>> " in page.read_text()]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The text without code, in which brackets are no links and # begins no heading."""
    fenced = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^ {4}.*$", "", fenced, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, punctuation dropped, - for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*\w)`", page.read_text()):
        assert (ROOT / path).exists(), path


def linked_from(*pages: Path) -> set[Path]:
    return {(page.parent / link).resolve() for page in pages for link in links(page)}


@pytest.mark.parametrize("folder", ["docs", "docs/lectures"])
def test_every_page_of_docs_is_in_the_index_of_its_folder(folder):
    index = ROOT / folder / "README.md"
    assert set((ROOT / folder).glob("*.md")) - {index} <= linked_from(index)


def test_every_picture_of_docs_is_in_the_index_or_on_the_page_of_a_lecture():
    pictures = [p for p in (ROOT / "docs/img").rglob("*") if p.suffix in (".png", ".svg")]
    assert len(pictures) > 5
    lectures = (ROOT / "docs/lectures").glob("*.md")
    assert set(pictures) <= linked_from(ROOT / "docs/README.md", *lectures)


def test_the_picture_of_axes_is_what_its_program_draws(tmp_path):
    program = ROOT / "examples" / "norm_axes.py"
    subprocess.run([sys.executable, program, tmp_path / "axes.svg"], check=True)
    picture = ROOT / "docs" / "img" / "norm_axes.svg"
    assert (tmp_path / "axes.svg").read_text() == picture.read_text()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_blocks_run(page):
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module, exc_type=ImportError)
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    for library in re.findall(r"^(?:import|from) (\w+)", "\n".join(blocks), re.MULTILINE):
        pytest.importorskip(library)  # a page about another library
    if page.name in NEEDS_GPU and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs a GPU")
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name(page), "exec"), names)


@pytest.mark.parametrize("page", WITH_DOCTESTS, ids=name)
def test_interactive_examples(page):
    failed, _ = doctest.testfile(str(page), module_relative=False)
    assert failed == 0


def test_performance_is_short():
    assert len((ROOT / "docs" / "performance.md").read_text().split()) < 1500


def test_speed_in_the_readme_is_a_picture_a_table_and_four_sentences():
    text = prose(ROOT / "README.md")
    section = re.search(r"^## How fast\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert section
    lines = section[1].splitlines()
    assert sum(line.startswith("![") for line in lines) == 1
    assert any(line.startswith("|") for line in lines)
    rest = " ".join(line for line in lines if not line.startswith(("![", "|")))
    assert 1 <= len(re.findall(r"[.!?](?=\s|$)", rest)) <= 4
