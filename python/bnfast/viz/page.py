"""The HTML page of a recording: the template `page.html` with the numbers put into it."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfast.viz.records import QUANTILES, QUANTITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bnfast.viz.records import Record


def render(title: str, recorded: Mapping[str, Sequence[Record]]) -> str:
    """Return the page of these layers, of which each has a record."""
    data = {
        "quantiles": QUANTILES,
        "quantities": QUANTITIES,
        "layers": [
            {"name": name, "records": [_rounded(record.to_json()) for record in records]}
            for name, records in recorded.items()
        ],
    }
    # A script ends at the first "</script>", whatever it stands in: no "<" may come from outside.
    script = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    before, after = template.split("/*recording*/")  # first: title and names may hold the marks
    return before.replace("{{title}}", html.escape(title)) + script + after


def _rounded(value: Any) -> Any:
    """Return JSON with numbers of seven digits, as float32 has them."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
