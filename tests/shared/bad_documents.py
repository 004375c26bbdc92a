"""Settings, policies, deployments, histories and job files that cannot be used, and why."""

from __future__ import annotations

from bad_document_parts import DEPLOYMENT, HISTORY, ME, TOKEN, Case, put, without, written

DOCUMENTS: dict[str, Case] = {
    "settings: empty": ("settings", lambda: b"", "Input data was truncated"),
    "settings: no JSON": ("settings", lambda: b"{", "Input data was truncated"),
    "settings: a list": ("settings", lambda: b"[]", "Expected `object`, got `array`"),
    "settings: invalid UTF-8": (
        "settings",
        lambda: b'{"chain": "\xff"}',
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    "settings: a key nobody knows": (
        "settings",
        lambda: b'{"chains": "embedded:"}',
        "Object contains unknown field `chains`",
    ),
    "settings: a number for a chain": (
        "settings",
        lambda: b'{"chain": 7}',
        "Expected `str`, got `int` - at `$.chain`",
    ),
    "settings: a path for a chain": (
        "settings",
        lambda: b'{"chain": "/etc/passwd"}',
        "'/etc/passwd' given; allowed: 'embedded:' or a URL of http, https, ws, wss",
    ),
    "settings: a chain over ftp": (
        "settings",
        lambda: b'{"chain": "ftp://node"}',
        "'ftp://node' given; allowed: 'embedded:' or a URL of http, https, ws, wss",
    ),
    "settings: a port too high": (
        "settings",
        lambda: b'{"chain": "http://node:99999"}',
        "'http://node:99999' given; allowed: 'embedded:' or a URL of http, https, ws, wss",
    ),
    "settings: no host": (
        "settings",
        lambda: b'{"chain": "http://"}',
        "'http://' given; allowed: 'embedded:' or a URL of http, https, ws, wss",
    ),
    "settings: an open bracket in the host": (
        "settings",
        lambda: b'{"chain": "http://[::1"}',
        "'http://[::1' given; allowed: 'embedded:' or a URL of http, https, ws, wss",
    ),
    "settings: no folder for blobs": ("settings", lambda: b'{"blobs": ""}', "must name a store"),
    "settings: polling all the time": ("settings", lambda: b'{"poll_ms": 0}', "must be from 1 to 3600000"),
    "settings: polling never": ("settings", lambda: b'{"poll_ms": 3600001}', "must be from 1 to 3600000"),
    "settings: half a millisecond": (
        "settings",
        lambda: b'{"poll_ms": 0.5}',
        "Expected `int`, got `float` - at `$.poll_ms`",
    ),
    "settings: true milliseconds": (
        "settings",
        lambda: b'{"poll_ms": true}',
        "Expected `int`, got `bool` - at `$.poll_ms`",
    ),
    "settings: a negative stagger": ("settings", lambda: b'{"stagger_ms": -1}', "must be from 0 to 3600000"),
    "settings: 65 KiB": (
        "settings",
        lambda: b'{"blobs": "' + b"x" * 66_000 + b'"}',
        "66013 bytes; at most 65536 allowed",
    ),
    "settings: nested for ever": (
        "settings",
        lambda: b'{"chain":' * 30_000,
        "270000 bytes; at most 65536 allowed",
    ),
    "policy: empty": ("policy", lambda: b"", "Input data was truncated"),
    "policy: a list": ("policy", lambda: b"[]", "Expected `object`, got `array`"),
    "policy: a rule nobody knows": (
        "policy",
        lambda: b'{"allow": "*"}',
        "Object contains unknown field `allow`",
    ),
    "policy: one requester without a list": (
        "policy",
        lambda: b'{"requesters": "*"}',
        "Expected `array`, got `str` - at `$.requesters`",
    ),
    "policy: a bounty as a number": (
        "policy",
        lambda: b'{"minimum_bounty": 7}',
        "Expected `str`, got `int` - at `$.minimum_bounty`",
    ),
    "policy: a bounty with a point": (
        "policy",
        lambda: b'{"minimum_bounty": "1.5"}',
        "must be a whole number of smallest units, as text of at most 78 digits",
    ),
    "policy: a negative bounty": (
        "policy",
        lambda: b'{"minimum_bounty": "-1"}',
        "must be a whole number of smallest units, as text of at most 78 digits",
    ),
    "policy: a bounty in Arabic digits": (
        "policy",
        lambda: '{"minimum_bounty": "\u0663"}'.encode(),
        "must be a whole number of smallest units, as text of at most 78 digits",
    ),
    "policy: a bounty of 5,000 digits": (
        "policy",
        lambda: b'{"minimum_bounty": "' + b"9" * 5_000 + b'"}',
        "must be a whole number of smallest units, as text of at most 78 digits",
    ),
    "policy: negative rounds": ("policy", lambda: b'{"maximum_rounds": -1}', "must be 0 or more"),
    "policy: negative bytes": ("policy", lambda: b'{"maximum_state_bytes": -1}', "must be 0 or more"),
    "policy: epsilon of 0": ("policy", lambda: b'{"max_epsilon": 0}', "must be above 0 to 1e+06, or null"),
    "policy: epsilon as text": (
        "policy",
        lambda: b'{"max_epsilon": "8"}',
        "Expected `float | null`, got `str` - at `$.max_epsilon`",
    ),
    "policy: epsilon without end": (
        "policy",
        lambda: b'{"max_epsilon": 1e7}',
        "must be above 0 to 1e+06, or null",
    ),
    "policy: a delta of one half": ("policy", lambda: b'{"delta": 0.5}', "must be above 0 to 0.01"),
    "policy: a delta of 0": ("policy", lambda: b'{"delta": 0}', "must be above 0 to 0.01"),
    "policy: 66 KB": (
        "policy",
        lambda: b'{"datasets": ["' + b"x" * 66_000 + b'"]}',
        "66018 bytes; at most 65536 allowed",
    ),
    "deployment: empty": ("deployment", lambda: b"", "is not JSON"),
    "deployment: no JSON": ("deployment", lambda: b"0x1", "is not JSON"),
    "deployment: nested for ever": ("deployment", lambda: b"[" * 100_000, "is not JSON"),
    "deployment: a list": (
        "deployment",
        lambda: b"[]",
        "must be an object with exactly ['block_number', 'chain_id', 'jobs', 'registry', 'token']",
    ),
    "deployment: a field missing": (
        "deployment",
        lambda: without(DEPLOYMENT, "jobs"),
        "must be an object with exactly ['block_number', 'chain_id', 'jobs', 'registry', 'token']",
    ),
    "deployment: a field too many": (
        "deployment",
        lambda: put(DEPLOYMENT, "owner", ME),
        "must be an object with exactly ['block_number', 'chain_id', 'jobs', 'registry', 'token']",
    ),
    "deployment: chain 0": (
        "deployment",
        lambda: put(DEPLOYMENT, "chain_id", 0),
        "must be a whole number from 1 to 2^63-1",
    ),
    "deployment: a true chain": (
        "deployment",
        lambda: put(DEPLOYMENT, "chain_id", True),
        "must be a whole number from 1 to 2^63-1",
    ),
    "deployment: a chain beyond 2^63": (
        "deployment",
        lambda: put(DEPLOYMENT, "chain_id", 1 << 63),
        "must be a whole number from 1 to 2^63-1",
    ),
    "deployment: a block before the first": (
        "deployment",
        lambda: put(DEPLOYMENT, "block_number", -1),
        "must be a whole number from 0 to 2^63-1",
    ),
    "deployment: an address in small letters": (
        "deployment",
        lambda: put(DEPLOYMENT, "token", TOKEN.lower()),
        "must be a checksummed address",
    ),
    "deployment: a short address": (
        "deployment",
        lambda: put(DEPLOYMENT, "jobs", "0x12"),
        "must be a checksummed address",
    ),
    "deployment: no address": (
        "deployment",
        lambda: put(DEPLOYMENT, "registry", None),
        "must be a checksummed address",
    ),
    "deployment: one address twice": (
        "deployment",
        lambda: put(DEPLOYMENT, "jobs", ME),
        "must be three different addresses",
    ),
    "history: empty": ("history", lambda: b"", "not a history: Expecting value: line 1 column 1 (char 0)"),
    "history: another format": (
        "history",
        lambda: put(HISTORY, "format", "galaxy-history-2"),
        "not a history: format must be galaxy-history-1",
    ),
    "history: no rounds": (
        "history",
        lambda: without(HISTORY, "rounds"),
        "not a history: 'rounds' is missing",
    ),
    "history: rounds as a number": (
        "history",
        lambda: put(HISTORY, "rounds", 3),
        "not a history: rounds must be a list",
    ),
    "history: an infinite cohort": (
        "history",
        lambda: b'{"format": "galaxy-history-1", "owners": 1e999, "rounds": []}',
        "not a history: cannot convert float infinity to integer",
    ),
    "history: another cohort": (
        "history",
        lambda: put(HISTORY, "owners", 3),
        "not a history: round 1 has 2 of 3 owners",
    ),
    "history: a status nobody knows": (
        "history",
        lambda: put(HISTORY, "rounds.0.statuses", "AX"),
        "not a round's record: statuses must be letters of -DMRA",
    ),
    "history: a status too few": (
        "history",
        lambda: put(HISTORY, "rounds.0.statuses", "A"),
        "not a round's record: values must be float64[1]",
    ),
    "history: values of another shape": (
        "history",
        lambda: put(HISTORY, "rounds.0.values", [[0.5, 0.0]]),
        "not a round's record: values must be float64[2]",
    ),
    "history: values as text": (
        "history",
        lambda: put(HISTORY, "rounds.0.values", ["a", "b"]),
        "not a round's record: could not convert string to float: 'a'",
    ),
    "history: an infinite value": (
        "history",
        lambda: written(HISTORY).replace(b"[0.5,0.0]", b"[1e999,0.0]"),
        "not a round's record: values must be finite",
    ),
    "history: accuracy above 1": (
        "history",
        lambda: put(HISTORY, "rounds.0.accuracy", 1.5),
        "not a round's record: accuracy must be in [0, 1], not 1.5",
    ),
    "history: an infinite utility": (
        "history",
        lambda: written(HISTORY).replace(b"-0.5", b"-1e999"),
        "not a round's record: utility must be finite, not -inf",
    ),
    "history: a round before the first": (
        "history",
        lambda: put(HISTORY, "rounds.0.round_index", -1),
        "not a round's record: round_index must be at least 0, not -1",
    ),
    "history: a round twice": (
        "history",
        lambda: put(HISTORY, "rounds", HISTORY["rounds"] * 2),
        "not a history: round 1 comes after round 1",
    ),
    "history: nested for ever": ("history", lambda: b"[" * 100_000, "not a history: it is nested too deeply"),
    "job file: binary": (
        "job file",
        lambda: b"job = 1\0",
        "is no job file; Python source of at most 1048576 bytes in a file .py allowed",
    ),
    "job file: a megabyte and more": (
        "job file",
        lambda: b"#" * ((1 << 20) + 1),
        "is no job file; Python source of at most 1048576 bytes in a file .py allowed",
    ),
    "job file: a syntax error": ("job file", lambda: b"job = (\n", "SyntaxError"),
    "job file: an error": (
        "job file",
        lambda: b"import math\njob = math.nothing\n",
        "AttributeError: module 'math' has no attribute 'nothing'",
    ),
    "job file: no job": ("job file", lambda: b"name = 1\n", "must set 'job' to a galaxylearning.Job"),
    "job file: a job that is none": (
        "job file",
        lambda: b"job = 7\n",
        "must set 'job' to a galaxylearning.Job",
    ),
    "job file: an odd encoding": ("job file", lambda: b"# coding: nothing\njob = 7\n", "SyntaxError"),
    "job file: invalid UTF-8": ("job file", lambda: b'job = "\xff"\n', "SyntaxError"),
}
