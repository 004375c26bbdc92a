"""Behaviours by name: texts and what they mean, combinations, registration, and who is assigned what."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from behaviour_cases import chance, rows, view
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F32
from galaxylearning.simulation.behaviours import (
    Alie,
    AttackView,
    Backdoor,
    Behaviour,
    Combined,
    LabelNoise,
    Malformed,
    MinMax,
    Plain,
    Scaled,
    Slow,
    Zero,
    behaviour_names,
    describe,
    parse_assignments,
    parse_behaviour,
    register,
    unregister,
)
from galaxylearning.simulation.behaviours_registry import BUILT_IN

# ---- names and texts


@pytest.mark.parametrize("name", [*behaviour_names()])
def test_every_name_gives_its_behaviour_and_a_text_that_gives_it_back(name: str) -> None:
    kind = parse_behaviour(name)
    assert kind.name == name
    assert describe(kind) == name
    assert hash(kind) == hash(parse_behaviour(name))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("scaled:factor=2.5", Scaled(2.5)),
        ("scaled:-1e+3", Scaled(-1000.0)),
        (" slow : 4 ", Slow(4.0)),
        ("alie:z=0.5,knowledge=own", Alie(0.5, knowledge="own")),
        ("alie:z=none", Alie()),
        ("backdoor:target=2,fraction=0.1,size=4,value=-1,boost=3", Backdoor(2, 0.1, 4, -1.0, 3.0)),
        ("label-noise:0.5+slow", Combined((LabelNoise(0.5), Slow()))),
        ("nan:inf", Malformed("inf")),
        ("scaled:0.1234567", Scaled(0.1234567)),
    ],
)
def test_texts_and_behaviours_are_each_others_inverse(text: str, wanted: Behaviour) -> None:
    found = parse_behaviour(text)
    assert found == wanted
    assert parse_behaviour(describe(found)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gone", "allowed: honest, slow"),
        ("", "allowed: honest"),
        ("zero+", "there is no 'zero\\+'"),
        ("scaled:fctor=2", "no argument 'fctor'; allowed: factor=10"),
        ("scaled:factor=2,factor=3", "given twice"),
        ("scaled:2,factor=3", "given twice"),
        ("scaled:factor=two", "scaled.factor: must be a number"),
        ("scaled:nan", "factor must be in"),
        ("mimic:1.5", "mimic.target: must be a whole number"),
        ("sign-flip:3", "takes no arguments"),
        ("alie:knowledge=some", "must be one of all, own"),
        ("alie:own", "alie.z: must be a number"),
        ("slow:0.5", "slow.factor must be in"),
        ("absent:1.5", "absent.probability must be in"),
        ("noise:0", "noise.scale must be in"),
        ("last-step:noise=-1", "last-step.noise must be in"),
        ("label-noise:2", "label-noise.fraction must be in"),
        ("backdoor:size=0", "backdoor.size must be from"),
        ("ipm:-1", "ipm.epsilon must be in"),
        ("min-max:direction=up", "must be one of std, unit, sign"),
        ("sybil-split:1", "sybil-split.parts must be from 2"),
        ("sybil-duplicate:1", "sybil-duplicate.copies must be from 2"),
        ("nan:zero", "must be one of nan, inf, alternate"),
        ("alie+min-max", "only one part can act in concert"),
        ("sybil-split+sybil-duplicate", "only one part can enrol"),
        ("+".join(["zero"] * 9), "2 to 8 can be combined"),
        ("z" * 501, "at most 500"),
    ],
)
def test_texts_that_mean_nothing_are_refused_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(ConfigRefused, match=says):
        parse_behaviour(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Alie(knowledge="some"),  # type: ignore[arg-type]
        lambda: MinMax(direction="up"),  # type: ignore[arg-type]
        lambda: Malformed(3),  # type: ignore[arg-type]
    ],
)
def test_code_is_checked_as_texts_are(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigRefused, match="must be one of"):
        make()


def test_a_combination_does_all_of_it() -> None:
    kind = parse_behaviour("label-noise+scaled:2+sign-flip+slow:2+slow:3+sybil-duplicate")
    assert kind.name == "label-noise+scaled+sign-flip+slow+slow+sybil-duplicate"
    assert kind.delay == 6.0
    assert kind.trains
    assert kind.acts == "alone"
    assert not kind.needs_honest
    assert kind.update(view([[1.0, -2.0]]), rng=chance()).tolist() == [[-2.0, 4.0]]
    assert len(kind.split(5, rng=chance())) == 2
    true = rows(20)
    assert (kind.data(true, classes=3, rng=chance()).labels != true.labels).all()
    assert not kind.absent(0, np.arange(3, dtype=np.int64), rng=chance()).any()
    assert parse_behaviour("absent+slow").absent(0, np.arange(3, dtype=np.int64), rng=chance()).all()
    both = parse_behaviour("mimic+slow")
    assert both.acts == "together"
    assert both.needs_honest
    assert not both.trains
    with pytest.raises(ConfigRefused, match="cannot be part of another"):
        Combined((Zero(), Combined((Zero(), Slow()))))


def test_the_docs_list_every_behaviour_with_its_arguments() -> None:
    page = (Path(__file__).parents[2] / "docs" / "behaviours.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|([^|]*)\|", page, flags=re.MULTILINE))
    for name, kind in BUILT_IN.items():
        documented = re.findall(r"`([a-z]+)(?:=[^`]*)?`", rows[name])
        given = [one.strip() for one in documented if one not in ("inf", "alternate")]
        assert sorted(given) == sorted(inspect.signature(kind).parameters), name


def test_the_example_in_the_docs_works() -> None:
    page = (Path(__file__).parents[2] / "docs" / "behaviours.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    module = types.ModuleType("example_of_the_docs")
    sys.modules[module.__name__] = module
    try:
        exec(code, vars(module))  # noqa: S102
        sent = parse_behaviour("damped:0.25").update(view([[4.0, 8.0]]), rng=chance())
        assert sent.tolist() == [[1.0, 2.0]]
    finally:
        unregister("damped")
        del sys.modules[module.__name__]


# ---- registration


@dataclass(frozen=True, slots=True)
class Halved(Plain):
    """A plug-in."""

    name = "halved"
    times: int = 1

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        return view.own / np.float32(2**self.times)


@pytest.fixture
def _halved() -> Iterator[None]:
    register("halved", Halved)
    yield
    unregister("halved")


@pytest.mark.usefixtures("_halved")
def test_users_register_their_own() -> None:
    assert parse_behaviour("halved:times=3") == Halved(3)
    assert behaviour_names()[-1] == "halved"
    with pytest.raises(ConfigRefused, match="halved is taken"):
        register("halved", Halved)


@pytest.mark.parametrize("name", ["zero", "Upper", "a b", "", "x+y", "a@b", "-a"])
def test_names_that_are_taken_or_could_not_be_asked_for_are_refused(name: str) -> None:
    with pytest.raises(ConfigRefused, match="behaviour name"):
        register(name, Halved)


def test_what_was_not_registered_cannot_be_forgotten() -> None:
    with pytest.raises(ConfigRefused, match="was not registered"):
        unregister("zero")


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with entry points, as an installer leaves it."""
    (tmp_path / "galaxy_plug.py").write_text(
        "from galaxylearning.simulation.behaviours import Scaled\n"
        "def tripled(times: int = 1):\n    return Scaled(3.0 ** times)\n"
        "number = 7\n"
    )
    info = tmp_path / "galaxy_plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: galaxy-plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[galaxylearning.behaviours]\n"
        "tripled = galaxy_plug:tripled\nbroken = galaxy_plug:missing\nnumber = galaxy_plug:number\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("galaxy_plug", None)


@pytest.mark.usefixtures("_installed")
def test_installed_plug_ins_are_found_and_bad_ones_named() -> None:
    assert {"tripled", "broken", "number"} <= set(behaviour_names())
    assert parse_behaviour("tripled:times=2") == Scaled(9.0)
    with pytest.raises(ConfigRefused, match="galaxy_plug:missing did not load"):
        parse_behaviour("broken")
    with pytest.raises(ConfigRefused, match="cannot be called"):
        parse_behaviour("number")
    with pytest.raises(ConfigRefused, match="no argument 'factor'; allowed: times=1"):
        parse_behaviour("tripled:factor=2")


# ---- assignments


def assigned(*texts: str, owners: int = 20, seed: int = 0) -> dict[int, str]:
    found = parse_assignments(texts, owners=owners, rng=chance(seed))
    return {position: describe(behaviour) for position, behaviour in found.items()}


def test_positions_are_taken_as_named() -> None:
    assert assigned("alie@0-2,5", "zero@7", "scaled:3 @ 9") == {
        **dict.fromkeys((0, 1, 2, 5), "alie"),
        7: "zero",
        9: "scaled:factor=3",
    }
    assert assigned() == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("zero", 1),
        ("zero@x3", 3),
        ("zero x3", 3),
        ("zerox3", 3),
        ("min-max@25%", 5),
        ("scaled:10x0", 0),
        ("zero@100%", 20),
    ],
)
def test_so_many_are_drawn(text: str, count: int) -> None:
    found = assigned(text)
    assert len(found) == count
    assert set(found) <= set(range(20))
    assert found == assigned(text), "the same generator draws the same"


def test_drawing_leaves_named_positions_alone_and_depends_on_the_generator() -> None:
    found = assigned("zero@x15", "alie@0-4")
    assert {position for position, name in found.items() if name == "alie"} == {0, 1, 2, 3, 4}
    assert len(found) == 20
    assert assigned("zero@x5") != assigned("zero@x5", seed=1)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["zero@20"], "positions are 0 to 19"),
        (["zero@5-3"], "positions are 0 to 19"),
        (["zero@0-999999999"], "positions are 0 to 19"),
        (["zero@0-19,0-19,0"], "positions are 0 to 19"),
        (["zero@-1"], "means nothing"),
        (["zero@"], "means nothing"),
        (["zero@a"], "means nothing"),
        (["zero@1,,2"], "means nothing"),
        (["zero@1@2"], "must be NAME"),
        (["zero@101%"], "at most 100%"),
        (["zero@x21"], "21 wanted, 20 of 20 are left"),
        (["zero@0-9", "alie@60%"], "12 wanted, 10 of 20 are left"),
        (["zero@1", "alie@1"], "data owner 1 is zero already; join them"),
        (["zero@1,1"], "data owner 1 is zero already"),
        (["zero"] * 1001, "at most 1000"),
    ],
)
def test_assignments_that_cannot_be_are_refused(texts: list[str], says: str) -> None:
    with pytest.raises(ConfigRefused, match=says):
        parse_assignments(texts, owners=20, rng=chance())
