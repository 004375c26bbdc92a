"""What each behaviour sends and does to its rows: against hand-computed numbers and the law it promises."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import F32
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import (
    Absent,
    Alie,
    AttackView,
    Backdoor,
    Behaviour,
    Combined,
    Honest,
    InnerProduct,
    LabelNoise,
    LastStep,
    Malformed,
    Mimic,
    MinMax,
    MinSum,
    Noise,
    Plain,
    Scaled,
    ShuffledLabels,
    SignFlip,
    Slow,
    SybilDuplicate,
    SybilSplit,
    Zero,
    behaviour_names,
    describe,
    parse_assignments,
    parse_behaviour,
    register,
    unregister,
)
from galaxylearning.simulation.behaviours_attack import largest_distance, largest_z
from galaxylearning.simulation.behaviours_registry import BUILT_IN


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def view(
    own: list[list[float]],
    honest: list[list[float]] | None = None,
    *,
    owners: list[int] | None = None,
    honest_owners: list[int] | None = None,
    last: list[float] | None = None,
    clip: float = 2.0,
    size: int | None = None,
) -> AttackView:
    mine = np.array(own, np.float32)
    theirs = None if honest is None else np.array(honest, np.float32)
    known = 0 if theirs is None else len(theirs)
    return AttackView(
        round_index=3,
        params=np.zeros(mine.shape[1], np.float32),
        owners=np.array(range(len(mine)) if owners is None else owners, np.int64),
        own=mine,
        clip_norm=clip,
        cohort_size=len(mine) + known if size is None else size,
        last_global_step=None if last is None else np.array(last),
        honest=theirs,
        honest_owners=np.array(range(50, 50 + known) if honest_owners is None else honest_owners, np.int64),
    )


def rows(n: int, classes: int = 3, seed: int = 0) -> Rows:
    rng = chance(seed)
    return Rows(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, classes, n))


HONEST = [[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]]


# ---- everybody for himself


def test_simple_behaviours_by_hand() -> None:
    seen = view([[1.0, -2.0], [0.5, 0.0]], last=[0.25, -4.0])
    assert Honest().update(seen, rng=chance()).tolist() == [[1.0, -2.0], [0.5, 0.0]]
    assert SignFlip().update(seen, rng=chance()).tolist() == [[-1.0, 2.0], [-0.5, 0.0]]
    assert Scaled(-3.0).update(seen, rng=chance()).tolist() == [[-3.0, 6.0], [-1.5, 0.0]]
    assert Zero().update(seen, rng=chance()).tolist() == [[0.0, 0.0]] * 2
    assert LastStep(2.0).update(seen, rng=chance()).tolist() == [[0.5, -8.0]] * 2
    assert np.isnan(Malformed().update(seen, rng=chance())).all()
    assert np.isposinf(Malformed("inf").update(seen, rng=chance())).all()
    mixed = Malformed("alternate").update(seen, rng=chance())
    assert np.isnan(mixed[:, 0]).all()
    assert np.isposinf(mixed[:, 1]).all()


def test_the_last_step_does_not_exist_in_the_first_round() -> None:
    assert LastStep(noise=1.0).update(view([[1.0, 1.0]]), rng=chance()).tolist() == [[0.0, 0.0]]


def test_a_scaled_update_too_large_for_the_wire_is_infinite_and_warns_nobody() -> None:
    assert np.isposinf(Scaled(1e12).update(view([[1e30, 1e30]]), rng=chance())).all()


def test_noise_has_the_norm_it_promises_and_differs_between_data_owners() -> None:
    seen = view(np.zeros((200, 400)).tolist(), clip=3.0)
    sent = Noise(0.5).update(seen, rng=chance(1))
    norms = np.linalg.norm(sent.astype(np.float64), axis=1)
    assert np.sqrt(np.mean(norms**2)) == pytest.approx(1.5, rel=0.02)
    assert len(np.unique(sent[:, 0])) == 200


def test_a_disguised_replay_is_the_step_plus_noise_of_the_stated_size() -> None:
    step = chance(2).normal(size=500)
    seen = view(np.zeros((100, 500)).tolist(), last=step.tolist())
    extra = LastStep(noise=0.1).update(seen, rng=chance(3)) - step
    assert np.sqrt(np.mean(np.sum(extra**2, axis=1))) == pytest.approx(0.1 * np.linalg.norm(step), rel=0.03)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_absence_has_its_probability(probability: float) -> None:
    away = Absent(probability).absent(5, np.arange(4000, dtype=np.int64), rng=chance(4))
    assert away.mean() == pytest.approx(probability, abs=0.03)
    assert not Honest().absent(5, np.arange(10, dtype=np.int64), rng=chance()).any()


def test_who_does_not_train_says_so() -> None:
    names = [name for name in behaviour_names() if not parse_behaviour(name).trains]
    assert names == [
        "absent",
        "zero",
        "noise",
        "last-step",
        "alie",
        "ipm",
        "min-max",
        "min-sum",
        "mimic",
        "nan",
    ]
    assert parse_behaviour("alie:knowledge=own").trains
    assert parse_behaviour("absent:0.5").trains


# ---- in concert


def test_alie_by_hand() -> None:
    """Mean (2, 3), population deviations sqrt(2/3) and sqrt(2)."""
    sent = Alie(1.5).update(view([[0.0, 0.0]] * 2, HONEST), rng=chance())
    wanted = [2 - 1.5 * (2 / 3) ** 0.5, 3 - 1.5 * 2**0.5]
    np.testing.assert_allclose(sent, [wanted] * 2, rtol=1e-6)


def test_alie_goes_as_far_as_the_counts_allow() -> None:
    """The paper's example: 50 workers of whom 24 are corrupted need 2 more, so z is the 92.3 % quantile."""
    assert largest_z(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert largest_z(50, 24) == pytest.approx(1.426, abs=1e-3)
    assert largest_z(10, 1) == 0.0, "one among ten has to stay on the mean"
    assert largest_z(10, 8) == 0.0
    assert 0 < largest_z(100, 90) < 2


@pytest.mark.parametrize("seed", range(5))
def test_alie_stays_within_z_deviations(seed: int) -> None:
    honest = chance(seed).normal(size=(20, 30))
    saboteurs = 4 + 2 * seed
    sent = Alie().update(view(np.zeros((saboteurs, 30)).tolist(), honest.tolist()), rng=chance())
    gap = np.abs(sent - honest.mean(axis=0)) / honest.std(axis=0)
    np.testing.assert_allclose(gap, largest_z(20 + saboteurs, saboteurs), atol=1e-4)
    assert (sent == sent[0]).all()


def test_inner_product_manipulation_by_hand() -> None:
    sent = InnerProduct(0.5).update(view([[9.0, 9.0]], HONEST), rng=chance())
    np.testing.assert_allclose(sent, [[-1.0, -1.5]])
    mean = np.mean(HONEST, axis=0)
    assert float(sent[0] @ mean) < 0


def test_min_max_by_hand() -> None:
    """Honest 0 and 2 on a line: mean 1, way -1, furthest apart 2, so the update may lie at 0 (2 from 2)."""
    sent = MinMax().update(view([[5.0]], [[0.0], [2.0]]), rng=chance())
    np.testing.assert_allclose(sent, [[0.0]], atol=1e-7)


def test_min_sum_by_hand() -> None:
    """Honest 0 and 2: the most remote has sum 4; (1-g)^2 + (1+g)^2 = 4 gives g = 1."""
    sent = MinSum().update(view([[5.0]], [[0.0], [2.0]]), rng=chance())
    np.testing.assert_allclose(sent, [[0.0]], atol=1e-7)


def farthest(point: F32, honest: F32) -> float:
    return float(np.max(np.linalg.norm(honest.astype(np.float64) - point, axis=1)))


def remoteness(point: F32, honest: F32) -> float:
    return float(np.sum(np.linalg.norm(honest.astype(np.float64) - point, axis=1) ** 2))


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", range(4))
def test_min_max_and_min_sum_keep_their_bound_and_could_go_no_further(seed: int, direction: str) -> None:
    honest = (chance(seed).normal(size=(12, 40)) + 0.3).astype(np.float32)
    seen = view(np.zeros((3, 40)).tolist(), honest.tolist())
    mean = honest.astype(np.float64).mean(axis=0)
    pairs = np.linalg.norm(honest[:, None].astype(np.float64) - honest[None], axis=2)
    for name, measure, bound in (
        ("min-max", farthest, pairs.max()),
        ("min-sum", remoteness, (pairs**2).sum(axis=1).max()),
    ):
        sent = parse_behaviour(f"{name}:direction={direction}").update(seen, rng=chance())[0]
        beyond = mean + 1.001 * (sent - mean)
        assert measure(sent, honest) == pytest.approx(bound, rel=1e-5)
        assert measure(beyond, honest) > bound
        assert float(np.linalg.norm(sent - mean)) > 0.1


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("piece", [1, 32, 1 << 20])
def test_the_largest_distance_is_found_however_the_matrix_is_cut(
    monkeypatch: pytest.MonkeyPatch, piece: int, spread: float
) -> None:
    """``spread`` makes some updates much longer, so that the others are not all compared."""
    rng = chance(7)
    updates = (rng.normal(size=(60, 21)) * np.exp(spread * rng.normal(size=(60, 1)))).astype(np.float32)
    monkeypatch.setattr("galaxylearning.simulation.behaviours_attack.SLICE", piece)
    monkeypatch.setattr("galaxylearning.simulation.behaviours_base.SLICE", piece)
    pairs = np.linalg.norm(updates[:, None].astype(np.float64) - updates[None], axis=2)
    assert largest_distance(updates) == pytest.approx(pairs.max() ** 2, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_updates_have_distances_too(count: int) -> None:
    assert largest_distance(np.full((count, 3), 0.1, np.float32)) == pytest.approx(0, abs=1e-12)
    apart = np.arange(count, dtype=np.float32)[:, None]
    assert largest_distance(apart) == pytest.approx((count - 1) ** 2)


@pytest.mark.parametrize("kind", [Alie(2.0), MinMax(), MinSum(), MinMax(direction="unit")])
def test_equal_honest_updates_leave_nothing_but_to_send_them(kind: Behaviour) -> None:
    np.testing.assert_allclose(kind.update(view([[9.0, 9.0]], [[0.1, 0.7]] * 3), rng=chance()), [[0.1, 0.7]])


@pytest.mark.parametrize(
    "kind", [Alie(knowledge="own"), InnerProduct(knowledge="own"), MinMax(knowledge="own")]
)
def test_without_knowledge_of_the_others_the_own_updates_stand_in(kind: Behaviour) -> None:
    assert not kind.needs_honest
    assert kind.trains
    sent = kind.update(view(HONEST), rng=chance())
    knowing = parse_behaviour(kind.name).update(view([[0.0, 0.0]] * 3, HONEST, size=3), rng=chance())
    np.testing.assert_array_equal(sent, knowing)


def test_mimics_copy_always_the_same_honest_data_owner() -> None:
    seen = view([[0.0, 0.0]] * 2, HONEST, honest_owners=[4, 6, 9])
    assert Mimic(6).update(seen, rng=chance()).tolist() == [[3.0, 2.0]] * 2
    assert Mimic(7).update(seen, rng=chance()).tolist() == [[2.0, 5.0]] * 2, "the next that is there"
    assert Mimic(10).update(seen, rng=chance()).tolist() == [[1.0, 2.0]] * 2, "round the end"
    assert Mimic().update(view([[8.0, 8.0]], []), rng=chance()).tolist() == [[0.0, 0.0]], "nobody to copy"


@pytest.mark.parametrize("name", [*behaviour_names()])
def test_no_behaviour_changes_what_it_is_shown_and_all_give_one_float32_row_each(name: str) -> None:
    seen = view([[1.0, 2.0], [3.0, 4.0]], HONEST, last=[0.5, 0.5])
    before = replace(seen, own=seen.own.copy(), honest=None if seen.honest is None else seen.honest.copy())
    sent = parse_behaviour(name).update(seen, rng=chance())
    assert sent.shape == (2, 2)
    assert sent.dtype == np.float32
    np.testing.assert_array_equal(seen.own, before.own)
    assert seen.honest is not None
    assert before.honest is not None
    np.testing.assert_array_equal(seen.honest, before.honest)


# ---- lies about data


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_label_noise_changes_exactly_its_part_and_always_to_another_class(fraction: float) -> None:
    true = rows(400, classes=4)
    given = LabelNoise(fraction).data(true, classes=4, rng=chance(1))
    changed = given.labels != true.labels
    assert int(changed.sum()) == round(400 * fraction)
    assert set(np.unique(given.labels)) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(given.inputs, true.inputs)


def test_noisy_labels_are_even_among_the_other_classes() -> None:
    true = Rows(np.zeros((3000, 1), np.float32), np.zeros(3000, np.int64))
    counts = np.bincount(LabelNoise().data(true, classes=4, rng=chance(2)).labels.astype(int), minlength=4)
    assert counts[0] == 0
    assert (abs(counts[1:] - 1000) < 100).all()


def test_noise_on_real_labels_deals_them_out_anew() -> None:
    true = Rows(np.zeros((50, 1), np.float32), np.arange(50, dtype=np.float32)[:, None])
    given = LabelNoise(0.5).data(true, classes=0, rng=chance(3))
    assert sorted(given.labels.ravel().tolist()) == sorted(true.labels.ravel().tolist())
    moved = int((given.labels != true.labels).sum())
    assert 15 < moved <= 25


def test_one_class_leaves_no_other_label() -> None:
    true = Rows(np.zeros((5, 1), np.float32), np.zeros(5, np.int64))
    assert LabelNoise().data(true, classes=1, rng=chance()).labels.tolist() == [0] * 5


def test_shuffled_labels_are_the_same_labels_elsewhere() -> None:
    true = rows(200, classes=5)
    given = ShuffledLabels().data(true, classes=5, rng=chance(4))
    assert sorted(given.labels.tolist()) == sorted(true.labels.tolist())
    assert (given.labels != true.labels).sum() > 100


def test_a_backdoor_marks_the_last_features_and_sets_the_label() -> None:
    true = Rows(np.zeros((10, 5), np.float32), np.ones(10, np.int64))
    given = Backdoor(target=2, fraction=0.4, size=2, value=7.0).data(true, classes=3, rng=chance(5))
    marked = given.labels == 2
    assert int(marked.sum()) == 4
    assert given.inputs[marked].tolist() == [[0.0, 0.0, 0.0, 7.0, 7.0]] * 4
    assert not given.inputs[~marked].any()
    assert not true.inputs.any(), "the true rows are left alone"


def test_a_backdoor_marks_the_corner_of_images() -> None:
    given = Backdoor(size=2, value=1.0).marked(np.zeros((1, 1, 3, 3), np.float32))
    assert given[0, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_a_backdoor_is_probed_on_other_classes_alone() -> None:
    test = Rows(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 1]))
    probe = Backdoor(target=1, size=1).probe(test)
    assert probe.inputs.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert probe.labels.tolist() == [1, 1]
    with pytest.raises(DataRefused, match="target class only"):
        Backdoor(target=1).probe(test.take(np.array([1, 3])))


def test_a_boosted_backdoor_sends_more_and_an_unboosted_one_what_training_gave() -> None:
    assert Backdoor(boost=5.0).update(view([[1.0, 2.0]]), rng=chance()).tolist() == [[5.0, 10.0]]
    assert Backdoor(boost=5.0).acts == "alone"
    assert Backdoor().acts == "never"


@pytest.mark.parametrize(
    ("backdoor", "true", "field"),
    [
        (Backdoor(target=3), rows(5), "backdoor.target"),
        (Backdoor(value=0.5), Rows(np.zeros((5, 3), np.int64), np.zeros(5, np.int64)), "backdoor.value"),
    ],
)
def test_a_backdoor_that_the_data_do_not_allow_is_refused(backdoor: Backdoor, true: Rows, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        backdoor.data(true, classes=3, rng=chance())


@pytest.mark.parametrize(("n", "parts"), [(10, 2), (11, 3), (7, 7)])
def test_sybil_parts_are_disjoint_and_complete(n: int, parts: int) -> None:
    pieces = SybilSplit(parts).split(n, rng=chance(6))
    assert len(pieces) == parts
    assert sorted(np.concatenate(pieces).tolist()) == list(range(n))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1


def test_too_few_rows_cannot_be_split() -> None:
    with pytest.raises(DataRefused, match="2 rows cannot be split in 3"):
        SybilSplit(3).split(2, rng=chance())


def test_sybil_copies_are_equal() -> None:
    pieces = SybilDuplicate(3).split(4, rng=chance())
    assert [piece.tolist() for piece in pieces] == [[0, 1, 2, 3]] * 3


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


@dataclass(frozen=True, slots=True)
class Halved(Plain):
    """A plug-in."""

    name = "halved"
    times: int = 1

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        return view.own / np.float32(2**self.times)


def quartered() -> Behaviour:
    return Halved(2)


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
