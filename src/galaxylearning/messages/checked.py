"""The base of every message structure: field types are enforced on construction, not only on decoding."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import msgspec

from galaxylearning.errors import MessageRefused, Refused
from galaxylearning.messages.explained import explained


@lru_cache(maxsize=128)
def _field_types(cls: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in msgspec.structs.fields(cls))


class Checked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen structure that checks itself when made or decoded.

    Types first (lists become tuples, ints become floats where one belongs), then the subclass's own rules.
    """

    refusal: ClassVar[type[Refused]] = MessageRefused

    def __post_init__(self) -> None:
        for name, kind in _field_types(type(self)):
            value = getattr(self, name)
            try:
                converted = msgspec.convert(value, kind, strict=True)
            except msgspec.ValidationError as error:
                raise self.refusal(explained(error, kind), where=self.path(name)) from error
            if converted is not value:
                msgspec.structs.force_setattr(self, name, converted)
        self.check()

    def path(self, name: str) -> str:
        """How an error names a field."""
        return f"{type(self).__name__}.{name}"

    def check(self) -> None:
        """Rules beyond the types; nothing by default."""
