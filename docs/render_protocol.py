"""Write the tables of ``docs/protocol.md`` from the code: ``python docs/render_protocol.py``."""

from __future__ import annotations

from pathlib import Path

from galaxylearning.messages.typed import TYPED_MESSAGES
from galaxylearning.protocol.machine import table_markdown

DOCUMENT = Path(__file__).parent / "protocol.md"


def typed_messages_markdown() -> str:
    """One line for each EIP-712 type."""
    lines = ["| domain | type | says |", "|---|---|---|"]
    for message in TYPED_MESSAGES:
        first = (message.__doc__ or "").strip().splitlines()[0]
        lines.append(f"| {message.domain_name} | `{message.type_string}` | {first} |")
    return "\n".join(lines) + "\n"


SECTIONS = {"states": table_markdown, "typed-messages": typed_messages_markdown}


def render(text: str) -> str:
    """The document with every generated section renewed.

    Raises:
        ValueError: a section's markers are not in the document exactly once.
    """
    for name, make in SECTIONS.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{DOCUMENT.name} must mark the section {name} exactly once")
        before, _, rest = text.partition(begin)
        text = before + begin + make() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
