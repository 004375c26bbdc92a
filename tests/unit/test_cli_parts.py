"""Options, passphrases and output: what is allowed, what is refused, what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxylearning import bootstrap
from galaxylearning.cli import keys, output, owner
from galaxylearning.cli.job_facts import enrolling_line
from galaxylearning.cli.options import Format, pairs, smallest_units
from galaxylearning.config import Home
from galaxylearning.errors import ConfigRefused, KeyUnavailable, StorageError
from galaxylearning.protocol import job
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.sandbox.locks import Locks
from galaxylearning.storage.keystore import KeyStore
from galaxylearning.units import Address


def test_pairs_take_the_last_equals_sign() -> None:
    assert pairs(["size=mm", "a=b=kg"], "--unit") == {"size": "mm", "a=b": "kg"}
    assert pairs(None, "--unit") == {}


@pytest.mark.parametrize("values", [["mm"], ["=mm"], ["size="], ["size=mm", "size=cm"]])
def test_malformed_pairs_are_refused(values: list[str]) -> None:
    with pytest.raises(ConfigRefused, match="--unit"):
        pairs(values, "--unit")


@given(st.integers(0, 10**30 - 1), st.text("0123456789", min_size=0, max_size=18))
def test_amounts_are_those_of_a_job_file(whole: int, part: str) -> None:
    text = f"{whole}.{part}" if part else str(whole)
    assert smallest_units(text, "--tokens") == job.smallest_units(text, 18, "bounty")


@given(st.integers(0, 10**48 - 1))
def test_shown_amounts_are_exact(units: int) -> None:
    assert smallest_units(output.tokens(units).replace(",", ""), "--tokens") == units


@pytest.mark.parametrize(
    "text", ["", "-1", "1e5", "nan", "1.", ".5", "0." + "1" * 19, "9" * 31, "1,000", "²"]
)
def test_malformed_amounts_are_refused(text: str) -> None:
    with pytest.raises(ConfigRefused, match=r"--tokens: .*from 0 to below 10\^30 with at most 18 decimals"):
        smallest_units(text, "--tokens")


def test_what_strangers_write_is_made_harmless() -> None:
    assert output.harmless("a\x1b[31mb\nc\u202e[bold]") == "a\ufffd[31mb c\ufffd[bold]"


def test_tables_show_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table("[red]jobs", ("title",), [("[bold]x[/bold]",)])
    shown = capsys.readouterr().out
    assert "[red]jobs" in shown
    assert "[bold]x[/bold]" in shown


def test_the_passphrase_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    monkeypatch.delenv("GALAXY_PASSPHRASE", raising=False)
    monkeypatch.setenv("GALAXY_PASSPHRASE_FILE", str(file))
    with pytest.raises(KeyUnavailable, match="cannot be read"):
        keys.passphrase()
    for bad in (b"", b"\n", b"\xff\n", b"x" * 5_000):
        file.write_bytes(bad)
        with pytest.raises(KeyUnavailable, match="passphrase"):
            keys.passphrase()
    file.write_text("correct horse \nsecond line\n")
    assert keys.passphrase() == "correct horse "


def test_the_passphrase_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAXY_PASSPHRASE", "secret")
    assert keys.passphrase() == "secret"


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GALAXY_PASSPHRASE", raising=False)
    with pytest.raises(KeyUnavailable, match="GALAXY_PASSPHRASE"):
        keys.passphrase()


def home_with(tmp_path: Path, *names: str) -> Home:
    home = Home(tmp_path)
    store = KeyStore(home.keys, light=True)
    for name in names:
        store.create_account(name, "secret", entropy=bootstrap.entropy)
    return home


def test_the_only_account_need_not_be_named(tmp_path: Path) -> None:
    home = home_with(tmp_path, "alice")
    assert keys.account_name(home, None) == "alice"
    assert keys.account_name(home, "bob") == "bob"


def test_default_is_the_account_among_several(tmp_path: Path) -> None:
    assert keys.account_name(home_with(tmp_path, "alice", "default"), None) == "default"


def test_an_account_must_be_chosen_among_several(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="alice, bob"):
        keys.account_name(home_with(tmp_path, "alice", "bob"), None)
    with pytest.raises(ConfigRefused, match="galaxy wallet new"):
        keys.account_name(Home(tmp_path / "empty"), None)


def test_accounts_are_named_by_name_or_address(tmp_path: Path) -> None:
    home = home_with(tmp_path, "alice")
    address = keys.open_keys(home).accounts()["alice"]
    assert keys.address_named(home, "alice", "x") == address
    assert keys.address_named(home, address, "x") == address
    assert keys.address_named(home, address.lower(), "x") == address


@pytest.mark.parametrize(
    "given_text",
    ["bob", "0x12", "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"],
)
def test_a_mistyped_address_is_refused(tmp_path: Path, given_text: str) -> None:
    with pytest.raises(ConfigRefused, match="--account"):
        keys.address_named(home_with(tmp_path), given_text, "--account")


def test_a_policy_is_read_back_and_a_missing_one_allows_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert bootstrap.read_policy(home) == OwnerPolicy()
    policy = OwnerPolicy(requesters=("*",), accepted=("ab" * 32,))
    bootstrap.save_policy(home, policy)
    assert bootstrap.read_policy(home) == policy


@pytest.mark.parametrize("text", ["", "[]", '{"requester": []}', '{"minimum_bounty": "x"}', " " * (1 << 17)])
def test_a_malformed_policy_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(ConfigRefused):
        bootstrap.read_policy(Home(tmp_path))


def test_a_policy_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="bytes"):
        bootstrap.save_policy(Home(tmp_path), OwnerPolicy(accepted=("ab" * 32,) * 2_000))
    assert not (tmp_path / "policy.json").exists()


def test_a_policy_is_shown_with_its_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path)
    bootstrap.save_policy(home, OwnerPolicy(maximum_training_s=90, sandbox="best-effort"))
    owner.policy(tmp_path, Format.JSON)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["maximum_training_s"], shown["sandbox"]) == (90, "best-effort")
    assert shown["maximum_memory_bytes"] == 8 << 30
    owner.policy(tmp_path, Format.TABLE)
    table = capsys.readouterr().out
    assert "best-effort" in table
    assert "8,589,934,592" in table


def test_a_node_says_what_it_offers_and_what_to_do_without_data_sets() -> None:
    address = Address("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")
    facts = owner.started("hospital", address, 1337, 2).facts
    assert facts == {"name": "hospital", "chain": 1337, "data_sets": 2}
    assert "galaxy data add" in owner.started("hospital", address, 1337, 0).facts["hint"]


def test_a_machine_that_cannot_lock_is_told_what_it_lets_happen() -> None:
    progress = owner.not_locked(Locks({}, {}, ("files",)))
    assert set(progress.facts) == {"network", "processes"}
    assert "not fully locked" in progress.step


def test_a_served_chain_is_found_only_while_it_is_served(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert bootstrap.served_chain(home) is None
    with bootstrap.announce_chain(home, "http://127.0.0.1:1"):
        assert bootstrap.served_chain(home) == "http://127.0.0.1:1"
    assert bootstrap.served_chain(home) is None
    (tmp_path / bootstrap.SERVED_CHAIN).write_text("http://127.0.0.1:1")
    assert bootstrap.served_chain(home) is None


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="nowhere"),
        bootstrap.announce_chain(Home(tmp_path / "nowhere"), "http://127.0.0.1:1"),
    ):
        pass


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": [1]})
    assert json.loads(capsys.readouterr().out) == {"a": [1]}


def test_the_line_of_an_enrolling_job_names_seats_owners_and_when_it_begins() -> None:
    facts = {
        "seats_taken": 2,
        "seats": 4,
        "fewest_seats": 3,
        "enrolled": 1,
        "minimum_owners": 3,
        "maximum_owners": 8,
        "deadline": 10_000,
        "now": 2_800,
    }
    assert enrolling_line(facts) == (
        "2 of 4 evaluators seated (3 needed), 1 data owner enrolled (3 needed, 8 at most); begins when all "
        "are there, or in 2 h with those that are needed"
    )
    assert "0 s with" in enrolling_line({**facts, "now": 20_000})


def test_a_policy_is_shown_in_words() -> None:
    values = (("*", "0x1"), (), None, True, False, 1_000, 3.5, "required")
    words = ["*, 0x1", "none", "no limit", "yes", "no", "1,000", "3.5", "required"]
    assert [owner.policy_words(value) for value in values] == words
