"""Every event, and every function that others can call, says what it is and what each of its values means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "contracts/src"
FILES = sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.sol"))
DECLARATION = re.compile(
    r"((?:^    ///.*\n)*)^    (event|function) (\w+)\(([^)]*)\)([^;{]*)[;{]", re.MULTILINE
)


def undocumented(source: str) -> list[str]:
    """What is missing in the comments of a source."""
    missing = []
    for comment, kind, name, values, rest in DECLARATION.findall(source):
        if kind == "function" and not re.search(r"\b(external|public)\b", rest):
            continue
        wanted = [f"@param {value.split()[-1]} " for value in values.split(",") if value.strip()]
        wanted += ["@return "] if "returns" in rest else []
        missing += [f"{name}: {tag.strip()}" for tag in ("@notice ", *wanted) if tag not in comment]
    return missing


@pytest.mark.parametrize("file", FILES)
def test_nothing_that_others_see_is_without_a_word(file: str) -> None:
    assert undocumented((SOURCES / file).read_text()) == []


def test_what_is_missing_is_found() -> None:
    source = """
    /// @notice It was.
    /// @param one The first.
    event It(uint256 indexed one, address two);
    function told(bytes32 three) external pure returns (bool) {}
    function own(bytes32 four) internal {}
"""
    assert undocumented(source) == ["It: @param two", "told: @notice", "told: @param three", "told: @return"]
