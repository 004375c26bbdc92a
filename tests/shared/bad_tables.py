"""Data files that cannot be used, CSV and npz: what is in each, and what its reader must say about it."""

from __future__ import annotations

import numpy as np

from bad_table_parts import Case, npy, npz, zipped

TABLES: dict[str, Case] = {
    "csv: only blank lines": ("d.csv", lambda: b"\n\n\n", "has no columns"),
    "csv: only a header": ("d.csv", lambda: b"a,b\n", "has no rows of data"),
    "csv: a NUL": ("d.csv", lambda: b"a,b\n1,\0\n", "is not text: byte 6 is 0x00; save it as UTF-8"),
    "csv: UTF-16": ("d.csv", lambda: "a,b\n1,2\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "csv: control characters": (
        "d.csv",
        lambda: b"a,b\n1,\x07\n",
        "is not text: byte 6 is 0x07; save it as UTF-8",
    ),
    "csv: neither UTF-8 nor Latin-1": (
        "d.csv",
        lambda: b"a,b\n\xff,\x81\n",
        "is neither UTF-8 nor Latin-1: line 2 has the byte 0x81; save it as UTF-8",
    ),
    "csv: no header": (
        "d.csv",
        lambda: b"1,2\n3,4\n",
        "the first row must name the columns; it holds only numbers",
    ),
    "csv: a name twice": ("d.csv", lambda: b"a,b,a\n1,2,3\n", "the name is used for more than one column"),
    "csv: a name left out": (
        "d.csv",
        lambda: b"a,,c\n1,2,3\n",
        "column 2 has no name: every column needs one",
    ),
    "csv: a name of 201 letters": (
        "d.csv",
        lambda: b"a," + b"x" * 201 + b"\n1,2\n",
        "the name of column 2 must be at most 200 printable characters",
    ),
    "csv: a name that turns writing around": (
        "d.csv",
        lambda: "a,\u202eb\n1,2\n".encode(),
        "the name of column 2 must be at most 200 printable characters",
    ),
    "csv: a row too short": (
        "d.csv",
        lambda: b"a,b\n1,2\n3\n",
        "has 1 cell where the header names 2 columns",
    ),
    "csv: a row too long": (
        "d.csv",
        lambda: b"a,b\n1,2\n3,4,5\n",
        "has 3 cells where the header names 2 columns",
    ),
    "csv: an empty cell": ("d.csv", lambda: b"a,b\n1,2\n,3\n", "the cell is empty"),
    "csv: NA": ("d.csv", lambda: b"a,b\n1,2\nNA,3\n", "'NA' stands for a missing value"),
    "csv: a question mark": ("d.csv", lambda: b"a,b\n1,?\n2,3\n", "'?' stands for a missing value"),
    "csv: infinity": ("d.csv", lambda: b"a,b\n1,2\ninf,3\n", "'inf' is not a finite number"),
    "csv: minus infinity": (
        "d.csv",
        lambda: b"a,b\n1,2\n-Infinity,3\n",
        "'-Infinity' is not a finite number",
    ),
    "csv: a number beyond float64": ("d.csv", lambda: b"a,b\n1.5,2\n1e999,3\n", "the number is too large"),
    "csv: a number beyond what has moments": (
        "d.csv",
        lambda: b"a,b\n1.5,2\n1e101,3\n",
        "is not a finite number within ±1e+100",
    ),
    "csv: an integer of 20 digits": (
        "d.csv",
        lambda: b"a,b\n1,2\n99999999999999999999,3\n",
        "the integer does not fit 64 bits; state the column's kind if it is a category",
    ),
    "csv: a decimal comma": (
        "d.csv",
        lambda: b"a;b\n1,5;2\n2.5;3\n",
        "'1,5' has a decimal comma; write a decimal point",
    ),
    "csv: text among numbers": (
        "d.csv",
        lambda: b"a,b\n1,2\nmany,3\n",
        "'many' is not a number while other cells of the column are; state the column's kind if i",
    ),
    "csv: a number among texts": (
        "d.csv",
        lambda: b"a,b\nx,2\n" * 1 + b"".join(b"y,2\n" for _ in range(20000)) + b"7,2\n",
        "'7' is a number while the cells before it are text; state the column's kind if it is a c",
    ),
    "csv: hexadecimal": (
        "d.csv",
        lambda: b"a,b\n1,2\n0x10,3\n",
        "'0x10' is not a number while other cells of the column are; state the column's kind if i",
    ),
    "csv: Arabic digits": (
        "d.csv",
        lambda: "a,b\n1,2\n\u0663,3\n".encode(),
        "'٣' is not a number while other cells of the column are; state the column's kind if it i",
    ),
    "csv: digits grouped by underscores": (
        "d.csv",
        lambda: b"a,b\n1,2\n1_000,3\n",
        "'1_000' is not a number while other cells of the column are; state the column's kind if",
    ),
    "csv: a cell of 1,001 letters": (
        "d.csv",
        lambda: b"a,b\nx,1\n" + b"y" * 1001 + b",2\n",
        "a cell has more than 1000 characters",
    ),
    "csv: a quote never closed": ("d.csv", lambda: b'a,b\n"x,1\ny,2\n', "line 3: unexpected end"),
    "csv: a letter behind a quote": ("d.csv", lambda: b'a,b\n"x"y,1\n', "line 2: ',' expected after '\"'"),
    "csv: a cell beyond the parser's limit": (
        "d.csv",
        lambda: b'a,b\n"' + b"x" * 200_000 + b'",1\n',
        "line 2: field larger than field limit (131072)",
    ),
    "tsv: a row too short": ("d.tsv", lambda: b"a\tb\n1\n", "has 1 cell where the header names 2 columns"),
    "txt: a bell": ("d.txt", lambda: b"a|b\n1|\x07\n", "is not text: byte 6 is 0x07; save it as UTF-8"),
    "csv: empty": ("d.csv", lambda: b"", "is empty"),
    "a suffix nobody reads": (
        "d.json",
        lambda: b"{}",
        "must end in one of .csv, .tsv, .txt, .parquet, .pq, .npz",
    ),
    "a model in the place of data": (
        "d.pt",
        lambda: b"PK",
        "must end in one of .csv, .tsv, .txt, .parquet, .pq, .npz",
    ),
    "npz: empty": ("d.npz", lambda: b"", "is empty"),
    "npz: no archive": ("d.npz", lambda: b"a,b\n1,2\n" * 10, "is not a readable npz archive"),
    "npz: no arrays": ("d.npz", lambda: zipped(), "has no columns"),
    "npz: an array without a name": (
        "d.npz",
        lambda: zipped(**{"": npy("<f8", "(1,)", bytes(8))}),
        "column 1 has no name: every column needs one",
    ),
    "npz: no array in it": ("d.npz", lambda: zipped(x=b"hello"), "is not an array of format 1.0 or 2.0"),
    "npz: objects": (
        "d.npz",
        lambda: zipped(x=npy("|O", "(1,)", bytes(8))),
        "holds Python objects, which can execute code; save numbers or texts",
    ),
    "npz: complex numbers": (
        "d.npz",
        lambda: npz(x=np.zeros(2, complex)),
        "has dtype complex128; only numbers, booleans and texts are allowed",
    ),
    "npz: dates": ("d.npz", lambda: npz(x=np.zeros(2, "M8[s]")), "has no valid array header"),
    "npz: bytes": (
        "d.npz",
        lambda: npz(x=np.zeros(2, "S4")),
        "has dtype |S4; only numbers, booleans and texts are allowed",
    ),
    "npz: records": ("d.npz", lambda: npz(x=np.zeros(2, [("a", "<f8")])), "has no valid array header"),
    "npz: a scalar": ("d.npz", lambda: npz(x=np.float64(1.0)), "must have 1 to 5 dimensions, not shape ()"),
    "npz: six dimensions": (
        "d.npz",
        lambda: npz(x=np.zeros((2, 1, 1, 1, 1, 1))),
        "must have 1 to 5 dimensions, not shape (2, 1, 1, 1, 1, 1)",
    ),
    "npz: no rows": ("d.npz", lambda: npz(x=np.zeros(0)), "has no rows of data"),
    "npz: different numbers of rows": (
        "d.npz",
        lambda: npz(x=np.zeros(2), y=np.zeros(3)),
        "has 3 rows where 'x' has 2",
    ),
    "npz: not a number": (
        "d.npz",
        lambda: npz(x=np.array([1.0, np.nan])),
        "'nan' stands for a missing value; fill it in, leave the row out",
    ),
    "npz: infinity": (
        "d.npz",
        lambda: npz(x=np.array([1.0, np.inf])),
        "is not a finite number within ±1e+100",
    ),
    "npz: infinity in an array": (
        "d.npz",
        lambda: npz(x=np.array([[1.0, np.inf]], np.float32)),
        "is not a finite number within ±3.40282e+38",
    ),
    "npz: an unsigned integer of 64 bits": (
        "d.npz",
        lambda: npz(x=np.array([2**64 - 1], np.uint64)),
        "the integer does not fit 64 bits",
    ),
    "npz: a shape larger than its bytes": (
        "d.npz",
        lambda: zipped(x=npy("<f8", "(9,)", bytes(8))),
        "has 8 bytes where its header says 72",
    ),
    "npz: a shape of petabytes": (
        "d.npz",
        lambda: zipped(x=npy("<f8", "(999999999999999,)", bytes(8))),
        "has more than 10000000 rows",
    ),
    "npz: an array of a type nobody has": (
        "d.npz",
        lambda: npz(x=np.zeros((2, 2), np.int8)),
        "an array of shape (2, 2) must have one of the dtypes float32, float64, int32, int64, uin",
    ),
    "npz: an empty text": ("d.npz", lambda: npz(x=np.array(["a", ""])), "the cell is empty; fill it in"),
    "npz: a text of 1,001 letters": (
        "d.npz",
        lambda: npz(x=np.array(["a" * 1001])),
        "a cell may have at most 1000 characters",
    ),
    "npz: half a surrogate pair": (
        "d.npz",
        lambda: zipped(x=npy("<U1", "(1,)", b"\x00\xd8\x00\x00")),
        "holds text that is not Unicode",
    ),
    "npz: a version nobody knows": (
        "d.npz",
        lambda: zipped(x=b"\x93NUMPY\x09\x00" + bytes(80)),
        "is not an array of format 1.0 or 2.0",
    ),
    "npz: a header of 60,000 bytes": (
        "d.npz",
        lambda: zipped(x=b"\x93NUMPY\x01\x00\x60\xea" + bytes(60_000)),
        "has an array header of 60000 bytes; at most 4096",
    ),
    "npz: an entry in a folder": (
        "d.npz",
        lambda: zipped(**{"a/x": npy("<f8", "(1,)", bytes(8))}),
        "holds 'a/x.npy', which is not an array as numpy.savez writes it",
    ),
    "npz: an entry on another drive": (
        "d.npz",
        lambda: zipped(**{"C:x": npy("<f8", "(1,)", bytes(8))}),
        "holds 'C:x.npy', which is not an array as numpy.savez writes it",
    ),
}
