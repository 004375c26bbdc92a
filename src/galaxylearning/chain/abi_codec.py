"""Calls, results, logs and custom errors of the Galaxy contracts as Python values, by the committed ABIs.

Structs come out as dicts keyed by field name, addresses checksummed, bytes as bytes, arrays as tuples.
Encoders are built once for the process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from eth_abi.decoding import ContextFramesBytesIO
from eth_abi.exceptions import DecodingError, EncodingError
from eth_abi.registry import registry
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from galaxylearning.errors import LedgerError
from galaxylearning.ports import Contract

ARTIFACTS: Mapping[Contract, str] = {"jobs": "GalaxyJobs", "registry": "GalaxyRegistry", "token": "DemoToken"}

_PANIC = bytes.fromhex("4e487b71")
_ERROR_STRING = bytes.fromhex("08c379a0")


def _type_name(parameter: Mapping[str, Any]) -> str:
    """``(uint256,address)[]`` for a tuple array: the ABI's own name of a type."""
    name = str(parameter["type"])
    if not name.startswith("tuple"):
        return name
    return f"({','.join(map(_type_name, parameter['components']))}){name.removeprefix('tuple')}"


def _shaped(parameter: Mapping[str, Any], value: Any) -> Any:
    """A decoded value with its addresses checksummed and its structs as dicts."""
    name = str(parameter["type"])
    if name.endswith("]"):
        element = {**parameter, "type": name[: name.rindex("[")]}
        return tuple(_shaped(element, item) for item in value)
    if name == "tuple":
        return {
            field["name"]: _shaped(field, item)
            for field, item in zip(parameter["components"], value, strict=True)
        }
    return to_checksum_address(value) if name == "address" else value


@dataclass(frozen=True, slots=True)
class Parameters:
    """A parameter list with its encoder and decoder."""

    fields: tuple[Mapping[str, Any], ...]
    type_name: str
    encoder: Any
    decoder: Any

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]]) -> Parameters:
        """Parameters as an ABI lists them."""
        type_name = f"({','.join(map(_type_name, fields))})"
        encoder = registry.get_encoder(type_name) if fields else None
        decoder = registry.get_decoder(type_name) if fields else None
        return cls(tuple(fields), type_name, encoder, decoder)

    def encode(self, values: Sequence[Any]) -> bytes:
        """ABI encoding of the values, structs as tuples.

        Raises:
            ValueError: a value does not fit its type.
        """
        if len(values) != len(self.fields):
            raise ValueError(f"takes {len(self.fields)} arguments {self.type_name}, not {len(values)}")
        if self.encoder is None:
            return b""
        try:
            return bytes(self.encoder(tuple(values)))
        except (EncodingError, TypeError, AttributeError) as error:
            raise ValueError(f"arguments do not fit {self.type_name}: {error}") from error

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The values, shaped, in order.

        Raises:
            LedgerError: ``data`` is not an encoding of these types.
        """
        if self.decoder is None:
            return ()
        try:
            values = self.decoder(ContextFramesBytesIO(data))  # type: ignore[no-untyped-call]
        except (DecodingError, ValueError, OverflowError) as error:
            raise LedgerError(f"{len(data)} bytes are not {self.type_name}") from error
        return tuple(_shaped(field, value) for field, value in zip(self.fields, values, strict=True))


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a contract."""

    name: str
    selector: bytes
    inputs: Parameters
    outputs: Parameters

    def encode(self, arguments: Sequence[Any]) -> bytes:
        """Call data. Raises ValueError where the arguments do not fit."""
        try:
            return self.selector + self.inputs.encode(arguments)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def decode(self, data: bytes) -> Any:
        """The result: a value, a dict where several are named, None where there is none."""
        values = self.outputs.decode(data)
        if len(values) <= 1:
            return values[0] if values else None
        names = [field["name"] for field in self.outputs.fields]
        return dict(zip(names, values, strict=True)) if all(names) else values


@dataclass(frozen=True, slots=True)
class EventType:
    """One event of a contract."""

    name: str
    indexed: tuple[Mapping[str, Any], ...]
    plain: Parameters
    order: tuple[str, ...]

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Arguments by name, in the order of the declaration.

        Raises:
            LedgerError: the log is not such an event.
        """
        if len(topics) != 1 + len(self.indexed):
            raise LedgerError(
                f"event {self.name} has {len(self.indexed)} indexed arguments, not {len(topics) - 1}"
            )
        found: dict[str, Any] = {}
        for field, topic in zip(self.indexed, topics[1:], strict=True):
            # What has no fixed size is indexed by its hash, and the hash is all a log tells.
            is_hashed = field["type"] in ("string", "bytes", "tuple") or field["type"].endswith("]")
            found[field["name"]] = topic if is_hashed else Parameters.of([field]).decode(topic)[0]
        for field, value in zip(self.plain.fields, self.plain.decode(data), strict=True):
            found[field["name"]] = value
        return {name: found[name] for name in self.order}


@dataclass(frozen=True, slots=True)
class ContractCodec:
    """Everything the ABI of one contract says."""

    functions: Mapping[str, Function]
    events: Mapping[bytes, EventType]
    errors: Mapping[bytes, Function]
    constructor: Parameters
    bytecode: bytes

    def function(self, name: str) -> Function:
        """A function by name. Raises ValueError where there is none."""
        found = self.functions.get(name)
        if found is None:
            raise ValueError(f"no function {name!r}; there are {', '.join(sorted(self.functions))}")
        return found


def build_codec(abi: Sequence[Mapping[str, Any]], bytecode: bytes = b"") -> ContractCodec:
    """The codec of an ABI. Functions are known by name and by signature, overloads only by the latter."""
    functions: dict[str, Function] = {}
    events: dict[bytes, EventType] = {}
    errors: dict[bytes, Function] = {}
    constructor = Parameters.of([])
    for entry in abi:
        if entry["type"] not in ("function", "event", "error", "constructor"):
            continue
        inputs = Parameters.of(entry.get("inputs", []))
        if entry["type"] == "constructor":
            constructor = inputs
            continue
        digest = keccak(text=f"{entry['name']}{inputs.type_name}")
        if entry["type"] == "event":
            events[digest] = EventType(
                name=entry["name"],
                indexed=tuple(field for field in inputs.fields if field["indexed"]),
                plain=Parameters.of([field for field in inputs.fields if not field["indexed"]]),
                order=tuple(field["name"] for field in inputs.fields),
            )
            continue
        outputs = Parameters.of(entry.get("outputs", []))
        made = Function(entry["name"], digest[:4], inputs, outputs)
        if entry["type"] == "error":
            errors[digest[:4]] = made
        else:
            functions[entry["name"]] = functions[f"{entry['name']}{inputs.type_name}"] = made
    return ContractCodec(functions, events, errors, constructor, bytecode)


@cache
def codec(contract: Contract) -> ContractCodec:
    """The codec of one of the Galaxy contracts, from the artifact shipped with the package."""
    text = resources.files("galaxylearning.chain").joinpath("abi", f"{ARTIFACTS[contract]}.json").read_text()
    artifact = json.loads(text)
    return build_codec(artifact["abi"], bytes.fromhex(artifact["bytecode"].removeprefix("0x")))


def describe_revert(data: bytes) -> tuple[str, str]:
    """Name of the custom error in revert data, and a sentence with its arguments.

    A ``require`` message has the name ``Error``, a failed assertion ``Panic``, anything else ``Reverted``.
    """
    selector, body = data[:4], data[4:]
    try:
        if selector == _ERROR_STRING:
            return "Error", str(Parameters.of([{"type": "string", "name": "reason"}]).decode(body)[0])
        if selector == _PANIC:
            code = Parameters.of([{"type": "uint256", "name": "code"}]).decode(body)[0]
            return "Panic", f"panic code {code:#x}"
        for contract in ARTIFACTS:
            known = codec(contract).errors.get(selector)
            if known is not None:
                values = known.inputs.decode(body)
                named = (
                    f"{field['name']}={_shown(value)}"
                    for field, value in zip(known.inputs.fields, values, strict=True)
                )
                return known.name, f"{known.name}({', '.join(named)})"
    except LedgerError:
        return "Reverted", f"undecodable revert data 0x{data[:68].hex()}"
    return "Reverted", f"unknown revert data 0x{data[:68].hex()}" if data else "no reason given"


def _shown(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    text = value.rstrip(b"\0")
    is_text = bool(text) and text.isascii() and text.decode("ascii", "replace").isprintable()
    return repr(text.decode()) if is_text and len(value) == 32 else "0x" + value.hex()
