"""Data files that cannot be used, Parquet, Arrow and traces: what is in each, and what must be said."""

from __future__ import annotations

import pyarrow as pa

from bad_table_parts import Case, stream, table

COLUMNS: dict[str, Case] = {
    "parquet: empty": ("d.parquet", lambda: b"", "is empty"),
    "parquet: only its mark": ("d.parquet", lambda: b"PAR1", "is not a readable Parquet file"),
    "parquet: no footer": (
        "d.parquet",
        lambda: b"PAR1" + bytes(100) + b"PAR1",
        "is not a readable Parquet file",
    ),
    "parquet: cut short": ("d.parquet", lambda: table({"x": [1, 2]})[:-9], "is not a readable Parquet file"),
    "parquet: a footer longer than the file": (
        "d.parquet",
        lambda: table({"x": [1, 2]})[:-8] + b"\xff\xff\xff\x7fPAR1",
        "is not a readable Parquet file",
    ),
    "parquet: encrypted": (
        "d.parquet",
        lambda: table({"x": [1, 2]})[:-4] + b"PARE",
        "is not a readable Parquet file",
    ),
    "parquet: no rows": ("d.parquet", lambda: table({"x": pa.array([], pa.int64())}), "has no rows of data"),
    "parquet: no columns": ("d.parquet", lambda: table({}), "has no columns"),
    "parquet: a column without a name": (
        "d.parquet",
        lambda: table({"": [1]}),
        "column 1 has no name: every column needs one",
    ),
    "parquet: nothing in a cell": ("d.parquet", lambda: table({"x": [1, None]}), "the cell is empty"),
    "parquet: not a number": (
        "d.parquet",
        lambda: table({"x": [1.0, float("nan")]}),
        "'nan' stands for a missing value; fill it in, leave the row out",
    ),
    "parquet: infinity": (
        "d.parquet",
        lambda: table({"x": [1.0, float("-inf")]}),
        "is not a finite number within ±1e+100",
    ),
    "parquet: lists": (
        "d.parquet",
        lambda: table({"x": [[1], [2]]}),
        "has type list<element: int64>; only integers, floats, booleans and texts can be used",
    ),
    "parquet: structs": (
        "d.parquet",
        lambda: table({"x": [{"a": 1}]}),
        "has type struct<a: int64>; only integers, floats, booleans and texts can be used",
    ),
    "parquet: bytes": (
        "d.parquet",
        lambda: table({"x": [b"a"]}),
        "has type binary; only integers, floats, booleans and texts can be used",
    ),
    "parquet: dates": (
        "d.parquet",
        lambda: table({"x": pa.array([0], pa.date32())}),
        "has type date32[day]; only integers, floats, booleans and texts can be used",
    ),
    "parquet: decimals": (
        "d.parquet",
        lambda: table({"x": pa.array([1], pa.decimal128(10, 2))}),
        "has type decimal128(10, 2); only integers, floats, booleans and texts can be used",
    ),
    "parquet: an unsigned integer of 64 bits": (
        "d.parquet",
        lambda: table({"x": pa.array([2**63], pa.uint64())}),
        "is not a readable Parquet file",
    ),
    "parquet: a text of 1,001 letters": (
        "d.parquet",
        lambda: table({"x": ["a" * 1001]}),
        "a cell has more than 1000 characters",
    ),
    "parquet: an empty text": ("d.parquet", lambda: table({"x": ["a", ""]}), "the cell is empty; fill it in"),
    "arrow: empty": ("d.arrow", lambda: b"", "is an empty Arrow stream"),
    "arrow: a file, not a stream": (
        "d.arrow",
        lambda: b"ARROW1\0\0" + bytes(64),
        "is an Arrow file, not the stream that Dataset.save_to_disk writes",
    ),
    "arrow: no stream": ("d.arrow", lambda: b"hello" * 20, "is not a readable Arrow stream"),
    "arrow: cut short": (
        "d.arrow",
        lambda: stream({"x": [1, 2]})[:-8],
        "is cut short: the end of the Arrow stream is missing",
    ),
    "arrow: a batch in the place of the schema": (
        "d.arrow",
        lambda: stream({"x": [1, 2]})[stream({"x": [1, 2]}).index(b"\xff\xff\xff\xff", 8) :],
        "begins with a message of type record batch; a schema must come first",
    ),
    "arrow: no rows": ("d.arrow", lambda: stream({"x": pa.array([], pa.int64())}), "has no rows of data"),
    "arrow: a dictionary": (
        "d.arrow",
        lambda: stream({"x": pa.array(["a"]).dictionary_encode()}),
        "holds a dictionary; only plain record batches can be used",
    ),
    "arrow: lists of different lengths": (
        "d.arrow",
        lambda: stream({"x": [[1], [1, 2]]}),
        "has lists of other lengths than 1, row 1's",
    ),
    "arrow: empty lists": (
        "d.arrow",
        lambda: stream({"x": [[], []]}),
        "has type list<item: null>; only numbers, booleans, texts, class labels, nested lists of",
    ),
    "arrow: dates": (
        "d.arrow",
        lambda: stream({"x": pa.array([0], pa.timestamp("s"))}),
        "has type timestamp[s]; only numbers, booleans, texts, class labels, nested lists of numb",
    ),
    "state: no JSON": ("state.json", lambda: b"{", "is not a JSON object: Input data was truncated"),
    "state: a list": ("state.json", lambda: b"[]", "is not a JSON object: Expected `object`, got `array`"),
    "state: no files": ("state.json", lambda: b'{"_data_files": []}', "must list 1 to 10000 names"),
    "state: a file elsewhere": (
        "state.json",
        lambda: b'{"_data_files": [{"filename": "../../etc/passwd"}]}',
        "lists '../../etc/passwd', which is no plain name",
    ),
    "state: a file that is not there": (
        "state.json",
        lambda: b'{"_data_files": [{"filename": "other.arrow"}]}',
        "the file is missing",
    ),
    "state: a number for a file": (
        "state.json",
        lambda: b'{"_data_files": [{"filename": 7}]}',
        "lists 7, which is no plain name",
    ),
    "state: rows by indices": (
        "state.json",
        lambda: b'{"_data_files": [{"filename": "d.arrow"}], "_indices_data_files": [1]}',
        "has an indices mapping; call flatten_indices() before saving",
    ),
    "state: nested for ever": (
        "state.json",
        lambda: b'{"a":' * 90 + b"1" + b"}" * 90,
        "is not a JSON object nested at most 64 deep",
    ),
    "trace: empty": ("t.csv", lambda: b"", "has no lines of data"),
    "trace: other fields": (
        "t.csv",
        lambda: b"owner,when\n1,2\n",
        "has the fields owner, when; allowed: owner, round or end_round, owner, start_round",
    ),
    "trace: a field twice": ("t.csv", lambda: b"owner,owner\n1,2\n", "names a column twice"),
    "trace: a cell too many": (
        "t.csv",
        lambda: b"round,owner\n1,2,3\n",
        "has 3 cells where the header has 2",
    ),
    "trace: a negative round": (
        "t.csv",
        lambda: b"round,owner\n-1,2\n",
        "round '-1' given; allowed: a whole number from 0 to 2147483647",
    ),
    "trace: half a round": (
        "t.csv",
        lambda: b"round,owner\n1.5,2\n",
        "round '1.5' given; allowed: a whole number from 0 to 2147483647",
    ),
    "trace: an owner by name": (
        "t.csv",
        lambda: b"round,owner\n1,anna\n",
        "owner 'anna' given; allowed: a whole number from 0 to 2147483647",
    ),
    "trace: a round of eleven digits": (
        "t.csv",
        lambda: b"round,owner\n99999999999,2\n",
        "round '99999999999' given; allowed: a whole number from 0 to 2147483647",
    ),
    "trace: an end before its start": (
        "t.csv",
        lambda: b"owner,start_round,end_round\n1,5,4\n",
        "end_round 4 given; allowed: 5 or later",
    ),
    "trace: no UTF-8": ("t.csv", lambda: b"round,owner\n1,\xff\n", "is not UTF-8"),
    "trace: an open quote": ("t.csv", lambda: b'round,owner\n"1,2\n', "unexpected end of data"),
    "trace: a line that is no object": (
        "t.jsonl",
        lambda: b"[1]\n",
        "is not an object of numbers and texts: Expected `object`, got `array`",
    ),
    "trace: an object inside": (
        "t.jsonl",
        lambda: b'{"round": {"a": 1}, "owner": 1}\n',
        "is not an object of numbers and texts: Expected `int | float | str | null`, got `object`",
    ),
    "trace: a truth value": (
        "t.jsonl",
        lambda: b'{"round": true, "owner": 1}\n',
        "is not an object of numbers and texts: Expected `int | float | str | null`, got `bool` -",
    ),
    "trace: a line without end": (
        "t.jsonl",
        lambda: b'{"round": 1, "owner": "' + b"x" * 100_000 + b'"}\n',
        "has more than 1000 characters",
    ),
    "trace: another suffix's form": (
        "t.jsonl",
        lambda: b"round,owner\n1,2\n",
        "is not an object of numbers and texts: JSON is malformed: invalid character (byte 0)",
    ),
}
