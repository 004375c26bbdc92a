"""What msgspec says of a value that is refused, and what is allowed in its place."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import inspect

MAX_CHARS: Final = 300
_WHERE: Final = re.compile(r" - at `\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[]+)|(\[[^\]]*\])")


def explained(error: Exception, kind: Any) -> str:
    """``error``, raised for a value of type ``kind``, with the values or fields that are allowed there.

    At most ``MAX_CHARS`` characters come from the error; names of types and fields are the program's own.
    """
    text = str(error)
    is_value = text.startswith("Invalid enum value")
    is_field = text.startswith("Object contains unknown field")
    if not isinstance(error, msgspec.ValidationError) or not (is_value or is_field):
        return text[:MAX_CHARS]
    found = _WHERE.search(text)
    there = _at(inspect.type_info(kind), found.group(1) if found else "")
    if is_value:
        literals = [one for one in there if isinstance(one, inspect.LiteralType)]
        allowed = [repr(value) for one in literals for value in one.values]
    else:
        structs = [one for one in there if isinstance(one, inspect.StructType)]
        allowed = [field.encode_name for one in structs for field in one.fields]
    return text[:MAX_CHARS] + (f"; allowed: {', '.join(allowed)}" if allowed else "")


def _at(kind: inspect.Type, path: str) -> list[inspect.Type]:
    """The types that are possible at a path such as ``.plan.rule`` or ``.features[...].kind``."""
    there = _each(kind)
    for name, _ in _STEP.findall(path):
        further: list[inspect.Type] = []
        for one in there:
            if name and isinstance(one, inspect.StructType):
                further += [field.type for field in one.fields if field.encode_name == name]
            elif not name and isinstance(one, inspect.VarTupleType | inspect.ListType):
                further.append(one.item_type)
            elif not name and isinstance(one, inspect.DictType):
                further.append(one.value_type)
        there = [each for one in further for each in _each(one)]
    return there


def _each(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]
