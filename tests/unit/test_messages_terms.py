"""The terms of a job: canonical bytes, and refusals that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from blake3 import blake3

from galaxylearning.errors import JobRefused
from galaxylearning.messages import terms as t
from galaxylearning.messages.plan import Noise, Plan

TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
REQUESTER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
SEATS = tuple(f"0x{n:040d}" for n in (1, 2, 3))
OWNER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
HEX = "ab" * 32

PLAN: dict[str, Any] = {"rounds": 3, "epochs": 1, "minimum_owners": 2, "maximum_owners": 12}
PRICE: dict[str, Any] = {"token": TOKEN, "bounty": "1000000", "fee_per_seat": "10", "target_gain": 0.5}
WINDOWS = {f"{name}_s": 60 for name in ("enrol", "round", "anchor", "commit", "reveal", "settle", "claim")}
LABEL = t.Column("diagnosis", "category", classes=("benign", "malignant"))
RADIUS = t.Column("radius", "number", unit="mm", mean=14.1, std=3.5, minimum=0, maximum=100)


def make_terms(**changes: Any) -> t.Terms:
    values: dict[str, Any] = {
        "title": "Biopsies",
        "description": "Benign or malignant, from ten measurements: «радиус».",
        "requester": REQUESTER,
        "evaluators": tuple(t.EvaluatorSeat(seat, HEX, HEX) for seat in SEATS),
        "schema": t.Schema((RADIUS,), LABEL),
        "plan": Plan(**PLAN),
        "price": t.Price(**PRICE),
        "admission": t.Admission(),
        "windows": t.Windows(**WINDOWS),
        "graph": HEX,
        "loss": "cross_entropy",
        "model": HEX,
        "model_digest": HEX,
        "test_set": HEX,
        "test_set_digest": HEX,
        "requester_key": HEX,
        "test_rows": 200,
        "seed": 1,
    }
    return t.Terms(**(values | changes))


def test_canonical_bytes_are_sorted_json_without_white_space() -> None:
    terms = make_terms()
    data = t.encode_terms(terms)
    document = json.loads(data)
    assert data == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert t.decode_terms(data) == terms
    assert terms.digest == blake3(data).digest()
    assert document["version"] == 1
    assert document["price"]["participation_fee"] == "0"


def test_lists_and_whole_numbers_have_one_form() -> None:
    by_list = make_terms(
        evaluators=[t.EvaluatorSeat(seat, HEX, HEX) for seat in SEATS],
        plan=Plan(**PLAN, learning_rate=1),
        schema=t.Schema([RADIUS], LABEL),  # type: ignore[arg-type]
    )
    by_tuple = make_terms(plan=Plan(**PLAN, learning_rate=1.0))
    assert by_list == by_tuple
    assert t.encode_terms(by_list) == t.encode_terms(by_tuple)
    assert by_list.digest != make_terms().digest


def test_quorum_is_more_than_half_of_the_seats() -> None:
    seats = [t.EvaluatorSeat(f"0x{n:040d}", HEX, HEX) for n in (1, 2, 3, 4)]
    assert [make_terms(evaluators=seats[:k]).quorum for k in (1, 2, 3, 4)] == [1, 2, 2, 3]


def test_an_array_may_take_the_place_of_columns() -> None:
    schema = t.Schema((), LABEL, (t.ArrayField("image", (8, 8), "float32"),))
    assert t.decode_terms(t.encode_terms(make_terms(schema=schema))).schema == schema
    assert t.decode_schema(t.encode_schema(schema)) == schema
    assert schema.digest == blake3(t.encode_schema(schema)).digest()
    with pytest.raises(JobRefused, match=r"schema\.features"):
        t.Schema((RADIUS,), LABEL, (t.ArrayField("image", (8, 8), "float32"),))
    with pytest.raises(JobRefused, match=r"schema\.features"):
        t.Schema((), LABEL)


def test_a_regression_label_needs_a_regression_loss() -> None:
    schema = t.Schema((RADIUS,), t.Column("load", "number"))
    assert make_terms(schema=schema, loss="mse").loss == "mse"
    with pytest.raises(JobRefused, match=r"schema\.label"):
        make_terms(schema=schema)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", "x" * 121),
        ("title", "bell\x07"),
        ("title", "\ud800"),
        ("title", 3),
        ("description", "x" * 10_001),
        ("requester", REQUESTER.lower()),
        ("requester", "0x" + "0" * 40),
        ("evaluators", ()),
        ("evaluators", tuple(t.EvaluatorSeat(f"0x{n:040d}", HEX, HEX) for n in (2, 1))),
        ("evaluators", tuple(t.EvaluatorSeat(f"0x{n:040d}", HEX, HEX) for n in (1, 1))),
        ("evaluators", tuple(t.EvaluatorSeat(f"0x{n:040d}", HEX, HEX) for n in range(10, 26))),
        ("graph", "AB" * 32),
        ("graph", "ab" * 31),
        ("model", "zz" * 32),
        ("model_digest", 5),
        ("test_set", ""),
        ("test_set_digest", None),
        ("requester_key", None),
        ("loss", "hinge"),
        ("test_rows", 0),
        ("test_rows", True),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 0.5),
        ("privacy", "open"),
        ("value", "shapley"),
        ("version", 2),
        ("version", True),
    ],
)
def test_terms_refuse_and_name_the_field(field: str, value: object) -> None:
    with pytest.raises(JobRefused, match=field):
        make_terms(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 0),
        ("rounds", 10_001),
        ("rounds", 10**400),
        ("rounds", 2.5),
        ("optimizer", "lbfgs"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1),
        ("prox_mu", -1),
        ("prox_mu", 1001),
        ("epochs", None),
        ("epochs", 0),
        ("steps", 5),
        ("batch_size", 0),
        ("clip_norm", 0),
        ("bits", 7),
        ("bits", 25),
        ("server_optimizer", "adagrad"),
        ("server_learning_rate", 0),
        ("server_momentum", 1),
        ("beta2", 1),
        ("tau", 0),
        ("tau", 1e-10),
        ("gate", 1),
        ("max_weight", 0),
        ("novelty", "yes"),
        ("loss_clip", 0),
        ("midpoints", 0),
        ("minimum_owners", 0),
        ("minimum_owners", 13),
        ("maximum_owners", 100_001),
    ],
)
def test_a_plan_refuses_and_names_the_field(field: str, value: object) -> None:
    assert Plan(**PLAN).rounds == 3
    with pytest.raises(JobRefused, match=f"plan.({field}|epochs)"):
        Plan(**(PLAN | {field: value}))


def test_adam_has_no_momentum_of_sgd() -> None:
    assert Plan(**PLAN, optimizer="adam").momentum == 0
    assert Plan(**PLAN, momentum=0.5).optimizer == "sgd"
    with pytest.raises(JobRefused, match=r"plan\.momentum: 0\.5 given; allowed: 0 with optimizer 'adam'"):
        Plan(**PLAN, optimizer="adam", momentum=0.5)


LOCAL: dict[str, Any] = {"kind": "local", "multiplier": 1.1, "example_clip": 0.5}


def test_noise_is_part_of_the_canonical_form() -> None:
    bare, noisy = make_terms(), make_terms(plan=Plan(**PLAN, noise=Noise(**LOCAL)))
    assert json.loads(t.encode_terms(bare))["plan"]["noise"] is None
    assert json.loads(t.encode_terms(noisy))["plan"]["noise"] == {
        "delta": 1e-05,
        "example_clip": 0.5,
        "kind": "local",
        "multiplier": 1.1,
    }
    assert t.decode_terms(t.encode_terms(noisy)) == noisy
    assert len({bare.digest, noisy.digest, make_terms(plan=Plan(**PLAN, noise=None)).digest}) == 2
    # A plan that leaves the field out would be a second spelling of the same terms.
    short = t.encode_terms(bare).replace(b'"noise":null,', b"")
    with pytest.raises(JobRefused, match="canonical"):
        t.decode_terms(short)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "global"),
        ("kind", None),
        ("multiplier", 0),
        ("multiplier", 0.049),
        ("multiplier", 1001),
        ("multiplier", float("nan")),
        ("multiplier", "1"),
        ("multiplier", True),
        ("delta", 0),
        ("delta", 0.011),
        ("delta", -1e-5),
        ("delta", float("nan")),
        ("example_clip", None),
        ("example_clip", 0),
        ("example_clip", float("inf")),
        ("example_clip", -1),
    ],
)
def test_noise_refuses_and_names_the_field(field: str, value: object) -> None:
    assert Noise(**LOCAL).delta == 1e-5
    with pytest.raises(JobRefused, match=f"plan.noise.{field}"):
        Noise(**(LOCAL | {field: value}))


def test_central_noise_clips_no_examples() -> None:
    assert Noise("central", 2.0).example_clip is None
    with pytest.raises(JobRefused, match=r"plan\.noise\.example_clip: 1\.0 given; allowed: none"):
        Noise("central", 2.0, example_clip=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token", "0x12"),
        ("bounty", "0"),
        ("bounty", "01"),
        ("bounty", "-1"),
        ("bounty", "1.0"),
        ("bounty", 5),
        ("bounty", "٣"),
        ("bounty", str(2**128)),
        ("bounty", "9" * 5000),
        ("fee_per_seat", ""),
        ("target_gain", 0),
        ("target_gain", float("nan")),
        ("participation_fee", "x"),
        ("bond", " 1"),
        ("seat_stake", "1e3"),
    ],
)
def test_a_price_refuses_and_names_the_field(field: str, value: object) -> None:
    assert t.Price(**PRICE).bond == "0"
    with pytest.raises(JobRefused, match=f"price.{field}"):
        t.Price(**(PRICE | {field: value}))


def test_participation_fees_fit_the_bounty() -> None:
    fits = t.Price(**(PRICE | {"bounty": "120", "participation_fee": "10"}))
    assert make_terms(price=fits).price is fits
    with pytest.raises(JobRefused, match=r"price\.participation_fee"):
        make_terms(price=t.Price(**(PRICE | {"bounty": "119", "participation_fee": "10"})))


def test_admission_lists_go_with_their_kind() -> None:
    assert t.Admission("allow-list", allowed=(OWNER,)).allowed == (OWNER,)
    assert t.Admission("credential", issuers=(OWNER,)).issuers == (OWNER,)
    for bad in (
        {"kind": "allow-list"},
        {"kind": "credential"},
        {"kind": "open", "allowed": (OWNER,)},
        {"kind": "allow-list", "allowed": (OWNER, OWNER)},
        {"kind": "allow-list", "allowed": (OWNER.lower(),)},
        {"kind": "allow-list", "allowed": (OWNER,), "issuers": (OWNER,)},
        {"kind": "closed"},
        {"scope": ""},
    ):
        with pytest.raises(JobRefused, match="admission"):
            t.Admission(**bad)


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_windows_last_from_a_second_to_a_year(name: str) -> None:
    assert getattr(t.Windows(**(WINDOWS | {name: 365 * 86_400})), name) == 365 * 86_400
    for bad in (0, -1, 365 * 86_400 + 1, True):
        with pytest.raises(JobRefused, match=f"windows.{name}"):
            t.Windows(**(WINDOWS | {name: bad}))


@pytest.mark.parametrize(
    "values",
    [
        {"name": "", "kind": "number"},
        {"name": "a", "kind": "image"},
        {"name": "a", "kind": "number", "std": 0},
        {"name": "a", "kind": "number", "mean": float("nan")},
        {"name": "a", "kind": "number", "minimum": 2, "maximum": 1},
        {"name": "a", "kind": "number", "classes": ("x",)},
        {"name": "a", "kind": "category"},
        {"name": "a", "kind": "category", "classes": ()},
        {"name": "a", "kind": "category", "classes": ("x", "x")},
        {"name": "a", "kind": "category", "classes": ("x", "y"), "minimum": 0},
        {"name": "a", "kind": "number", "unit": ""},
    ],
)
def test_a_column_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(JobRefused, match="column"):
        t.Column(**values)


def test_names_are_unique_and_arrays_bounded() -> None:
    with pytest.raises(JobRefused, match="each name once"):
        t.Schema((RADIUS, RADIUS), LABEL)
    with pytest.raises(JobRefused, match="each name once"):
        t.Schema((t.Column("diagnosis", "number"),), LABEL)
    for shape in ((0,), (2**25,), (4096, 8192), (1,) * 9):
        with pytest.raises(JobRefused, match=r"schema\.arrays\.shape"):
            t.ArrayField("image", shape, "float32")


def test_another_spelling_of_the_same_terms_is_refused() -> None:
    data = t.encode_terms(make_terms())
    spellings = (
        data + b" ",
        b" " + data,
        data.replace(b'"seed":1', b'"seed": 1'),
        data.replace(b'"mean":14.1', b'"mean":14.10'),
        data.replace(b'"Biopsies"', b'"\\u0042iopsies"'),
        data.replace(b'"version":1', b'"version":1,"version":1'),
        data.replace(b',"version":1', b""),
        data.replace(b'{"admission"', b'{"aaa":1,"admission"'),
        json.dumps(
            dict(reversed(json.loads(data).items())), separators=(",", ":"), ensure_ascii=False
        ).encode(),
    )
    for spelling in spellings:
        assert spelling != data
        with pytest.raises(JobRefused, match="terms"):
            t.decode_terms(spelling)


def test_terms_have_a_largest_size() -> None:
    columns = [t.Column(f"c{n}" + "x" * 150, "category", classes=("y" * 190,)) for n in range(4000)]
    with pytest.raises(JobRefused, match="1048576"):
        t.encode_terms(make_terms(schema=t.Schema(tuple(columns), LABEL)))
    with pytest.raises(JobRefused, match="1048576"):
        t.decode_terms(b" " * (t.MAX_TERMS_BYTES + 1))
