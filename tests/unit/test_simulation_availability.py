"""Who is there in which round and who is late: laws of the models, and traces line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.simulation import availability_traces
from galaxylearning.simulation.availability import (
    AlwaysAvailable,
    Availability,
    CombinedAvailability,
    DiurnalAvailability,
    FailureTrace,
    RandomAvailability,
    TraceAvailability,
    parse_availability,
)

OWNERS = np.arange(100_000, dtype=np.int64)
MODELS: list[Availability] = [
    AlwaysAvailable(),
    RandomAvailability(0.8),
    DiurnalAvailability(24, 0.3),
    CombinedAvailability((RandomAvailability(0.8), DiurnalAvailability(24, 0.3))),
]


def presence(there: Availability, rounds: range, owners: int) -> list[list[int]]:
    """Who is there, round by round."""
    who = np.arange(owners, dtype=np.int64)
    return [np.flatnonzero(there.present(r, who)).tolist() for r in rounds]


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("model", MODELS)
def test_the_answer_for_one_does_not_depend_on_who_else_is_asked_about(model: Availability) -> None:
    few = np.array([7, 99_999, 0, 512], dtype=np.int64)
    for round_index in (0, 3, 10**6):
        everybody = model.present(round_index, OWNERS)
        assert everybody.dtype == np.bool_
        np.testing.assert_array_equal(model.present(round_index, few), everybody[few])
        np.testing.assert_array_equal(model.delay(round_index, OWNERS), np.ones(len(OWNERS)))
        np.testing.assert_array_equal(model.present(round_index, OWNERS), everybody)


def test_everybody_is_always_there() -> None:
    assert AlwaysAvailable().present(5, OWNERS).all()


def test_chance_has_the_stated_share_and_no_memory() -> None:
    model = RandomAvailability(0.8)
    first, second = model.present(0, OWNERS), model.present(1, OWNERS)
    # Five standard errors of a share of 100,000.
    assert abs(first.mean() - 0.8) < 5 * np.sqrt(0.16 / len(OWNERS))
    assert abs((first & second).mean() - 0.64) < 0.008
    assert abs((first[1:] & first[:-1]).mean() - 0.64) < 0.008
    assert not np.array_equal(first, RandomAvailability(0.8, seed=1).present(0, OWNERS))
    assert RandomAvailability(1.0).present(0, OWNERS).all()


def test_days_have_one_waking_spell_of_the_stated_length() -> None:
    model = DiurnalAvailability(10, 0.3)
    awake = np.array([model.present(r, OWNERS[:500]) for r in range(20)])
    np.testing.assert_array_equal(awake[:10], awake[10:])
    assert set(awake[:10].sum(axis=0).tolist()) == {3}
    # Over a day everybody wakes up once: at most one change from asleep to awake.
    assert (np.diff(awake[:11].astype(int), axis=0) == 1).sum(axis=0).max() == 1
    assert abs(awake[0].mean() - 0.3) < 0.11
    assert DiurnalAvailability(1, 1.0).present(3, OWNERS).all()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "round,owner\n0,0\n1,0\n1,2\n3,2\n\n1,2\n"),
        ("t.csv", "\ufeffowner, start_round, end_round\n0,0,1\n2,1,1\n2,3,3\n"),
        ("t.csv", "end_round,owner,start_round\n1,0,0\n1,2,1\n3,2,3\n1,2,1\n"),
        (
            "t.jsonl",
            '{"round":0,"owner":0}\n{"owner":0,"round":1}\n{"owner":2,"round":1}\n\n{"owner":2,"round":3}',
        ),
        (
            "t.JSONL",
            '{"owner":0,"start_round":0,"end_round":1}\n{"owner":2,"round":1}\n'
            '{"owner":2,"start_round":3,"end_round":3}\n',
        ),
    ],
)
def test_a_trace_says_who_was_there(tmp_path: Path, name: str, text: str) -> None:
    trace = TraceAvailability.read(written(tmp_path, text, name))
    assert presence(trace, range(5), 4) == [[0], [0, 2], [], [2], []]
    assert presence(TraceAvailability(trace.spells, 4), range(3, 8), 4) == [[2], [0], [0, 2], [], [2]]
    np.testing.assert_array_equal(trace.delay(1, OWNERS[:4]), np.ones(4))


def test_spells_that_overlap_touch_or_contain_one_another_are_one(tmp_path: Path) -> None:
    text = (
        "owner,start_round,end_round\n1,0,9\n1,2,3\n1,10,11\n1,13,13\n0,5,6\n0,6,8\n2147483647,0,2147483647\n"
    )
    spells = TraceAvailability.read(written(tmp_path, text)).spells
    assert spells.owners.tolist() == [0, 1, 1, 2147483647]
    assert spells.starts.tolist() == [5, 0, 13, 0]
    assert spells.ends.tolist() == [8, 11, 13, 2147483647]
    assert spells.find(2147483647, np.array([2147483647, 5])).tolist() == [3, -1]


def test_random_traces_are_found_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    spans = [(int(o), int(s), int(s + d)) for o, s, d in rng.integers(0, [20, 50, 8], (300, 3))]
    text = "owner,start_round,end_round\n" + "".join(f"{o},{s},{e}\n" for o, s, e in spans)
    expected = [sorted({o for o, s, e in spans if s <= r <= e}) for r in range(60)]
    assert presence(TraceAvailability.read(written(tmp_path, text)), range(60), 21) == expected


FAILURES = """owner,start_round,end_round,failure,factor
1,3,5,crash,
2,3,,slow,2.5
3,4,4,drop,
4,1,1,slow,3
4,2,2,slow,1
4,2,2,drop,
"""


@pytest.mark.parametrize("is_jsonl", [False, True])
def test_failures_drop_slow_down_and_crash(tmp_path: Path, is_jsonl: bool) -> None:
    path = written(tmp_path, FAILURES)
    if is_jsonl:
        lines = (
            '{"owner":1,"start_round":3,"end_round":5,"failure":"crash"}',
            '{"owner":2,"start_round":3,"end_round":null,"failure":"slow","factor":2.5}',
            '{"owner":3,"start_round":4,"end_round":4,"failure":"drop","factor":null}',
            '{"owner":4,"start_round":1,"end_round":1,"failure":"slow","factor":3}',
            '{"owner":4,"start_round":2,"end_round":2,"failure":"slow","factor":1}',
            '{"owner":4,"start_round":2,"end_round":2,"failure":"drop"}',
        )
        path = written(tmp_path, "\n".join(lines), "failures.jsonl")
    trace = FailureTrace.read(path)
    assert presence(trace, range(2, 8), 5) == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [0, 2, 3, 4],
        [0, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
    ]
    delays = [trace.delay(r, OWNERS[:5]).tolist() for r in range(1, 7)]
    late = float("inf")
    assert delays == [
        [1, 1, 1, 1, 3],
        [1, 1, 1, 1, late],
        [1, late, 2.5, 1, 1],
        [1, late, 2.5, late, 1],
        [1, late, 2.5, 1, 1],
        [1, 1, 2.5, 1, 1],
    ]


def test_failures_come_on_top_of_availability(tmp_path: Path) -> None:
    trace = TraceAvailability.read(written(tmp_path, "round,owner\n4,1\n4,2\n4,3\n"))
    both = CombinedAvailability((trace, FailureTrace.read(written(tmp_path, FAILURES, "f.csv"))))
    assert presence(both, range(3, 6), 5) == [[], [2, 3], []]
    assert both.delay(4, OWNERS[:4]).tolist() == [1, float("inf"), 2.5, float("inf")]
    assert FailureTrace().present(0, OWNERS).all()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("round,owner\n0,0\n1,x\n", "trace.csv, line 3: owner 'x' given; allowed: a whole number from 0"),
        ("round,owner\n0,0\n\n1,-2\n", "line 4: owner '-2' given"),
        ("round,owner\n1.0,2\n", "line 2: round '1.0' given"),
        ("round,owner\n99999999999,2\n", "line 2: round '99999999999' given"),
        ("round,owner\n2147483648,2\n", "line 2: round 2147483648 given"),
        ("round,owner\n٣,2\n", "line 2: round '٣' given"),
        ("round,owner\n1\n", "line 2: has 1 cell where the header has 2"),
        (
            "round,person\n1,1\n",
            "line 2: has the fields round, person; allowed: owner, round or end_round, owner",
        ),
        ("round,owner,owner\n1,1,1\n", "line 1: names a column twice"),
        ("owner,start_round,end_round\n1,4,3\n", "line 2: end_round 3 given; allowed: 4 or later"),
        ("owner,start_round\n1,4\n", "line 2: has the fields owner, start_round; allowed"),
        ("round,owner\n", "trace.csv: has no lines of data"),
        ("", "trace.csv: has no lines of data"),
        ('round,owner\n"1,1\n', "line 2: unexpected end of data"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataRefused) as caught:
        TraceAvailability.read(written(tmp_path, text))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"round":0,"owner":0}\n{"round":true,"owner":1}', "line 2: is not an object of numbers and texts"),
        ('{"round":0,"owner":0}\n[1,2]', "line 2: is not an object"),
        ('{"round":0,"owner":0}\n{"round":', "line 2: is not an object"),
        ('{"round":0.5,"owner":0}', "line 1: round 0.5 given"),
        ('{"round":0}', "line 1: has the fields round; allowed"),
        ('{"round":0,"owner":' + " " * 2_000 + "1}", "line 1: has more than 1000 characters"),
        ('{"round":0,"owner":"\\ud800"}', "line 1: "),
    ],
)
def test_a_json_line_that_cannot_be_used_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataRefused) as caught:
        TraceAvailability.read(written(tmp_path, text, "trace.jsonl"))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,0,1,fire,", "line 2: failure 'fire' given; allowed: drop, slow, crash"),
        ("1,0,1,slow,", "line 2: factor '' given; allowed: a number from 1"),
        ("1,0,1,slow,0.5", "line 2: factor '0.5' given"),
        ("1,0,1,slow,nan", "line 2: factor 'nan' given"),
        ("1,0,1,drop,2", "line 2: factor '2' given; allowed: none for 'drop'"),
        ("1,,1,drop,", "line 2: start_round '' given"),
        ("1,0,4,drop,\n2,0,4,drop,\n1,4,5,drop,", "line 4: overlaps the spell of owner 1 in line 2"),
        ("1,3,4,crash,\n1,0,,crash,", "line 3: overlaps the spell of owner 1 in line 2"),
    ],
)
def test_a_failure_that_cannot_be_used_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path, f"owner,start_round,end_round,failure,factor\n{line}\n")
    with pytest.raises(DataRefused) as caught:
        FailureTrace.read(path)
    assert problem in str(caught.value)


def test_files_that_are_no_trace_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataRefused, match="there is no such file"):
        TraceAvailability.read(tmp_path / "gone.csv")
    with pytest.raises(DataRefused, match=r"must end in \.csv or \.jsonl"):
        TraceAvailability.read(written(tmp_path, "round,owner\n0,0\n", "trace.txt"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataRefused, match="must be a regular file"):
        TraceAvailability.read(tmp_path / "folder.csv")
    (tmp_path / "latin.csv").write_bytes(b"round,owner\n0,\xe9\n")
    with pytest.raises(DataRefused, match=r"latin\.csv, line 2: is not UTF-8"):
        TraceAvailability.read(tmp_path / "latin.csv")
    path = written(tmp_path, "round,owner\n" + "0,0\n" * 11)
    assert presence(TraceAvailability.read(path), range(2), 2) == [[0], []]
    monkeypatch.setattr(availability_traces, "MAX_LINES", 10)
    with pytest.raises(DataRefused, match="has more than 10 lines"):
        TraceAvailability.read(path)


def test_text_names_an_availability(tmp_path: Path) -> None:
    assert parse_availability("always") == AlwaysAvailable()
    assert parse_availability("random:0.8") == RandomAvailability(0.8)
    assert parse_availability(" Random : probability=0.8 , seed=7 ") == RandomAvailability(0.8, seed=7)
    assert parse_availability("diurnal:24,duty=0.3") == DiurnalAvailability(24, 0.3)
    path = written(tmp_path, "round,owner\n0,1\n", "a=b.csv")
    trace = parse_availability(f"trace:{path},period_rounds=2")
    assert presence(trace, range(3), 3) == [[1], [], [1]]
    failures = parse_availability(f"failures:path={written(tmp_path, FAILURES, 'f.csv')}")
    assert failures.delay(1, OWNERS[:5]).tolist() == [1, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sometimes", "availability: 'sometimes' given; allowed: always, random, diurnal, trace, failures"),
        ("always:1", "availability 'always': '1' given; allowed: no arguments"),
        ("random", "availability 'random': probability is missing"),
        ("random:0", "probability must be in"),
        ("random:1.1", "probability must be in"),
        ("random:nan", "probability must be in"),
        ("random:x", "probability: 'x' given; allowed: a number from 0 to 1"),
        ("random:0.5,seed=-1", "seed: '-1' given; allowed: a whole number from 0"),
        ("random:0.5,0.6", "availability 'random': '0.6' given; allowed: probability, seed"),
        ("random:0.5,probability=0.6", "availability 'random': probability is given twice"),
        ("diurnal:0", "period_rounds must be from 1"),
        ("diurnal:24,duty=0", "duty must be in"),
        ("trace:", "availability 'trace': path is missing"),
        ("trace:x.csv,period_rounds=two", "period_rounds: 'two' given"),
    ],
)
def test_text_that_names_none_is_refused_with_what_is_allowed(text: str, problem: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        parse_availability(text)
    assert problem in str(caught.value)
