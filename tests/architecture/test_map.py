"""CONTRIBUTING's map names every source file once, and its glossary every word that names one."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from architecture.tree import ROOT, files, name

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SUFFIXES = {".h", ".cpp", ".cu", ".py", ".pyi", ".cmake"}
# Words of file names that mean here what they mean everywhere.
PLAIN = {
    *("arguments", "arithmetic", "checks", "limits", "loop", "memory", "parallel", "portable"),
    "runtime",
}


def section(title: str) -> str:
    return re.split(r"\n## ", TEXT.split(f"\n## {title}\n")[1])[0]


def sources() -> list[str]:
    folders = ["cpp", "python/bnfast", "bench", "examples"]
    return [
        name(path)
        for folder in folders
        for path in files(folder, *SUFFIXES)
        if "build" not in path.parts
    ]


def mapped() -> list[str]:
    """The files that the map names; a name without extension is a header and its source."""
    found = []
    for part in section("The map").split("\n### ")[1:]:
        heading, *lines = part.splitlines()
        folder = re.findall(r"`([^`]+)`", heading)
        for entry in re.findall(r"^- ((?:`[^`]+`(?:, )?)+):", "\n".join(lines), re.MULTILINE):
            for item in re.findall(r"`([^`]+)`", entry):
                path = item if len(folder) > 1 else f"{folder[0]}/{item}"
                suffix = PurePosixPath(path).suffix
                found += [path] if suffix or path.endswith("/") else [path + ".h", path + ".cpp"]
    return found


def test_the_map_names_every_source_file_once():
    named = [path for path in mapped() if PurePosixPath(path).suffix in SUFFIXES]
    assert len(sources()) > 100
    assert sorted(named) == sorted(sources())


def test_the_glossary_has_the_words_of_file_names():
    words = {
        word
        for path in mapped()
        if path.startswith("cpp/src") and not path.endswith("CMakeLists.txt")
        for word in PurePosixPath(path).stem.split("_")
    }
    rows = re.findall(r"^\| ([^|]+) \|", section("Glossary"), re.MULTILINE)
    explained = {w.lower() for row in rows for w in re.split(r"[ ,]+", row)}
    explained |= {w + "s" for w in explained} | {w.rstrip("s") for w in explained}
    assert len(words) > 30
    assert sorted(words - explained - PLAIN) == []
