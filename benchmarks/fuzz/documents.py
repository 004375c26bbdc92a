"""Documents made wrong: JSON and msgpack whose values, names and shape are changed and encoded anew."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from benchmarks.fuzz.mutate import BOUNDS, change_bytes

Mutate: TypeAlias = Callable[[random.Random, Sequence[bytes]], bytes]

_ADDRESS: Final = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
_NUMBERS: Final[tuple[Any, ...]] = (
    *BOUNDS,
    *(-value for value in BOUNDS if value <= 2**63),
    *(0.5, -0.0, 1.0, 1e-320, 5e-324, 1e16, 1e308, -1e308),
)
_STRINGS: Final[tuple[str, ...]] = (
    *("", "0", "-1", "00", "1e9", "٣٤", "²", "1_000", "0x", "0x0", "true", "null", "nan"),
    *("\0", "a\0b", "\n", "\x1b[31m", "‮abc", "é", "e\u0301", "K", "ﬀ", "\U0001f600" * 30, "\ufeff", "\u2028"),
    *("x" * 65, "x" * 201, "x" * 5000, "9" * 78, "9" * 79, "9" * 4301, "ab" * 32, "AB" * 32),
    *("../../x", "/etc/passwd", "a/../b", "C:\\x", "con", "file:///x", "http://[::1", "http://a:99999/"),
    *("__proto__", "__class__", "type", "version", _ADDRESS, _ADDRESS.lower(), "0x" + "0" * 40),
)
_ODD_BYTES: Final = (b"", b"\0", bytes(31), bytes(32), bytes(33), bytes(65), b"\xff" * 65, bytes(4096))
_NOT_JSON_NUMBERS: Final = (float("nan"), float("inf"), float("-inf"), 10**40, -(10**400))
_SURROGATES: Final = ("\ud800", "a\udfff")


def _deep(rng: random.Random) -> Any:
    value: Any = None
    for _ in range(rng.choice((2, 9, 40, 300))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def odd_value(rng: random.Random, *, packed: bool) -> Any:
    """A value that rarely belongs where it is put; one that msgpack can hold, if ``packed``."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(_NUMBERS if packed or rng.random() < 0.8 else _NOT_JSON_NUMBERS)
    if kind < 6:
        return rng.choice(_STRINGS if packed or rng.random() < 0.95 else _SURROGATES)
    if kind == 6:
        return rng.choice((None, True, False))
    if kind == 7 and packed:
        return rng.choice(_ODD_BYTES) if rng.random() < 0.9 else msgspec.msgpack.Ext(rng.randrange(128), b"x")
    if kind == 8:
        return _deep(rng)
    return rng.choice(([], {}, [None], [0, 0], {"": {}}, [[]], [1] * 300))


def _scalar(rng: random.Random, value: Any, *, packed: bool) -> Any:
    """A value close to ``value``."""
    if isinstance(value, (bool, type(None), msgspec.msgpack.Ext)):
        return odd_value(rng, packed=packed)
    if isinstance(value, int):
        near = rng.choice(
            (value + 1, value - 1, -value, value * 2, value // 2, value ^ 1 << rng.randrange(63))
        )
        return max(-(2**63), min(near, 2**64 - 1)) if packed else near
    if isinstance(value, float):
        return rng.choice((-value, value * 2, value * 1e300, value + 1e-9, 0.0, value // 1))
    if isinstance(value, bytes):
        return change_bytes(rng, value)
    text = change_bytes(rng, value.encode("utf-8", "surrogatepass"))
    return text.decode("utf-8", "ignore" if packed else "surrogateescape")


def edit(rng: random.Random, value: Any, *, packed: bool) -> Any:
    """``value`` with one change somewhere inside; what it holds is shared, not copied."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.06:
        if isinstance(value, (dict, list)) or rng.random() < 0.5:
            return odd_value(rng, packed=packed)
        return _scalar(rng, value, packed=packed)
    action = rng.random()
    if isinstance(value, list):
        items = list(value)
        at = rng.randrange(len(items))
        if action < 0.75:
            items[at] = edit(rng, items[at], packed=packed)
        elif action < 0.82:
            del items[at]
        elif action < 0.90:
            items.insert(at, items[rng.randrange(len(items))])
        elif action < 0.95:
            other = rng.randrange(len(items))
            items[at], items[other] = items[other], items[at]
        else:
            items *= rng.choice((2, 3, 50))
        return items
    names = list(value)
    name = rng.choice(names)
    fields = dict(value)
    if action < 0.80:
        fields[name] = edit(rng, fields[name], packed=packed)
    elif action < 0.86:
        del fields[name]
    elif action < 0.91:
        fields[rng.choice(_STRINGS)] = odd_value(rng, packed=packed)
    elif action < 0.94:
        fields[name] = fields[rng.choice(names)]
    elif action < 0.96:
        # To whoever folds case, the name is there twice.
        fields[name.swapcase() if isinstance(name, str) else name] = edit(rng, fields[name], packed=packed)
    else:
        rng.shuffle(names)
        return {name: fields[name] for name in names}
    return fields


def _edited(rng: random.Random, value: Any, *, packed: bool) -> Any:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = edit(rng, value, packed=packed)
    return value


def to_json(value: Any) -> bytes:
    """Sorted, without white space: what most documents here must be to get past the first look."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def to_ascii_json(value: Any) -> bytes:
    """The same with every other letter escaped, as a model graph is written."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def to_plain_json(value: Any) -> bytes:
    """In the order the document has."""
    return json.dumps(value).encode()


def mutate_json(encode: Callable[[Any], bytes] = to_json) -> Mutate:
    """Seeds are JSON: a value is changed and the whole encoded anew; now and then the text is changed."""

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        seed = rng.choice(seeds)
        if rng.random() < 0.2:
            return change_bytes(rng, seed, seeds)
        data = encode(_edited(rng, _parsed(seed), packed=False))
        return change_bytes(rng, data, seeds) if rng.random() < 0.05 else data

    return mutate


def mutate_msgpack(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Seeds are msgpack: a value is changed and the whole encoded anew, and now and then the bytes, too."""
    seed = rng.choice(seeds)
    if rng.random() < 0.2:
        return change_bytes(rng, seed, seeds)
    data = msgspec.msgpack.encode(_edited(rng, _unpacked(seed), packed=True))
    return change_bytes(rng, data, seeds) if rng.random() < 0.05 else data


_KNOWN: dict[tuple[str, bytes], Any] = {}


def _parsed(seed: bytes) -> Any:
    key = ("json", seed)
    if key not in _KNOWN:
        _KNOWN[key] = json.loads(seed)
    return _KNOWN[key]


def _unpacked(seed: bytes) -> Any:
    key = ("msgpack", seed)
    if key not in _KNOWN:
        _KNOWN[key] = msgspec.msgpack.decode(seed)
    return _KNOWN[key]
