"""``docs/protocol.md`` says what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_protocol", DOCS / "render_protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_tables_are_fresh() -> None:
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert renderer().render(text) == text, "stale: run `python docs/render_protocol.py`"


def test_a_stale_table_is_renewed_and_a_missing_one_is_an_error() -> None:
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    stale = text.replace("| enrolling | `SeatTaken` |", "| enrolling | `SeatLost` |")
    assert stale != text
    assert renderer().render(stale) == text
    with pytest.raises(ValueError, match="states"):
        renderer().render(text.replace("<!-- end states -->", ""))
