"""One home with its own embedded chain, in one process: the money and consent of a job that is taken back."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from blob_services import certificates, serving
from galaxylearning import bootstrap
from galaxylearning.chain import evm
from galaxylearning.chain.embedded import serve
from galaxylearning.cli import main
from galaxylearning.cli.owner import own_credential, watched_policy
from galaxylearning.config import Home
from galaxylearning.nodes.site import Progress, registry_topic
from galaxylearning.protocol.consent import OwnerPolicy
from machines import galaxy

EVALUATORS = ("e1", "e2", "e3")


def asked(*arguments: object) -> Any:
    """What a reading command prints as JSON."""
    return json.loads(galaxy(*arguments, "--format", "json"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with contracts on its embedded chain and a requester."""
    monkeypatch.setenv("GALAXY_PASSPHRASE", "secret")
    monkeypatch.setenv("GALAXY_HOME", str(tmp_path / "home"))
    galaxy("chain", "deploy")
    galaxy("wallet", "new", "requester", "--light")
    return tmp_path / "home"


def test_an_issuer_vouches_for_accounts_of_organisations_it_knows(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.credential"
    for name in ("mary", "mary-too", "anne"):
        galaxy("wallet", "new", name, "--light")

    def issued(name: str, organisation: str, scope: str = "hospitals") -> Any:
        file.unlink(missing_ok=True)
        about = ("--organisation", organisation, "--scope", scope, "-o", file)
        return asked("credential", "issue", name, *about, "--as", "requester")

    one, other = issued("mary", "HRB-1"), issued("mary-too", "HRB-1")
    assert one["subject"] == other["subject"]
    assert one["data_owner"] != other["data_owner"]
    assert issued("anne", "HRB-2")["subject"] != one["subject"]
    assert issued("mary", "HRB-1", "banks")["subject"] != one["subject"]
    assert (home / "issuer.salt").stat().st_mode & 0o777 == 0o600
    last = issued("mary", "HRB-1")
    accounts = {row["name"]: row["address"] for row in asked("wallet", "list")}
    assert asked("credential", "show", file) == last
    assert (last["issuer"], last["data_owner"]) == (accounts["requester"], accounts["mary"])
    assert accounts["mary"] in galaxy("credential", "show", file)

    assert own_credential(file, accounts["mary"]).subject.hex() == one["subject"]
    assert "allowed" in galaxy("owner", "run", "--as", "anne", "--credential", file, code=3)
    (tmp_path / "junk").write_bytes(b"junk")
    assert "is no credential" in galaxy("credential", "show", tmp_path / "junk", code=3)
    assert "cannot be read" in galaxy("credential", "show", tmp_path / "none", code=3)
    for empty in ("--organisation", "--scope"):
        wrong = ("--organisation", "HRB-1", "--scope", "hospitals", empty, " ", "-o", tmp_path / "new")
        assert f"{empty}: ' ' given; allowed" in galaxy("credential", "issue", "mary", *wrong, code=3)
    named = ("--organisation", "HRB-1", "--scope", "hospitals", "--as", "requester", "-o")
    assert "already" in galaxy("credential", "issue", "mary", *named, file, code=3)
    assert asked("credential", "show", file) == last
    galaxy("credential", "issue", "mary", *named, tmp_path / "no-folder" / "new", code=6)
    file.unlink()
    (home / "issuer.salt").write_bytes(b"short")
    about = ("--organisation", "HRB-1", "--scope", "hospitals", "-o", file, "--as", "requester")
    assert "32 bytes" in galaxy("credential", "issue", "mary", *about, code=3)


def test_a_job_is_posted_refused_accepted_and_taken_back(home: Path, tmp_path: Path) -> None:
    galaxy("new", tmp_path / "mine")
    file = tmp_path / "mine" / "job.py"
    post = ("job", "post", file, "--as", "requester", "--evaluators")
    for name in EVALUATORS:
        galaxy("wallet", "new", name, "--light")
    assert "not a registered evaluator" in galaxy(*post, "e1,e2,e3", code=3)
    for name in EVALUATORS:
        galaxy("wallet", "fund", name, "--tokens", "2000")
        galaxy("evaluator", "register", "--as", name, "--stake", "60")
    assert "owns 0 tokens" in galaxy(*post, "e1,e2,e3", code=3)
    galaxy("wallet", "fund", "requester", "--tokens", "2000")
    assert asked("wallet", "show", "e1") == {
        **asked("wallet", "show", "e1"),
        "tokens": str(1_940 * 10**18),
        "staked": str(60 * 10**18),
        "is_evaluator": True,
    }
    assert "twice" in galaxy(*post, "e1,e1,e2", code=3)
    told = galaxy(*post, "e1,nobody", code=3)
    assert "--evaluators: 'nobody' given; allowed: 0x" in told
    assert "an account of this home (e1, e2, e3, requester)" in told
    posted = asked(*post, "e1,e2,e3")
    assert posted["job"] == "1"
    assert posted["is_new"]
    # The same again sends nothing, and says so.
    assert asked(*post, "e1,e2,e3") == {**posted, "gas": None, "is_new": False}
    assert "Already posted as job 1; nothing was sent" in galaxy(*post, "e1,e2,e3")
    # A second one beside it is another escrow, for which there is not enough.
    assert "owns 970 tokens" in galaxy(*post, "e1,e2,e3", "--copy", "2", code=3)
    (home / "journals" / "requester-requester.sqlite").unlink()
    assert asked(*post, "e1,e2,e3") == {**posted, "gas": None, "is_new": False}
    assert asked("wallet", "show", "requester")["tokens"] == str((2_000 - 1_030) * 10**18)

    shown = asked("job", "show", 1)
    assert (shown["phase"], shown["title"], shown["price"]["bounty"]) == (
        "enrolling",
        "mine",
        str(1_000 * 10**18),
    )
    assert shown["runs"]["operations"] == {"aten.linear.default": 2, "aten.relu.default": 1}
    assert shown["runs"]["flops_forward_per_batch"] > 0
    assert shown["leaves"]["updates"] == 5
    assert "nobody sees one update" in shown["privacy"]["who_sees"]
    assert (shown["runs"]["minimum_owners"], shown["runs"]["maximum_owners"]) == (3, 5)
    assert shown["runs"]["learning_rate"] == 0.05
    told = galaxy("job", "show", 1)
    for word in ("what that may tell", "aten.linear.default x2", "size_mm", "1,000 for a value of 0.4 nats"):
        assert word in told
    for word in ("3 needed, 5 at most", "learning rate 0.05", "for the updates of a round"):
        assert word in told
    assert asked("job", "list")[0]["phase"] == "enrolling"
    assert "no job 2" in galaxy("job", "show", 2, code=3)

    accepted = galaxy("job", "accept", 1)
    for word in ("galaxy data add", "what leaves, each round", "without noise nothing bounds it"):
        assert word in accepted

    # A data set that does not match is told column by column, and accepting says so.
    (tmp_path / "other.csv").write_text("size_mm,texture,diagnosis\n1.0,red,benign\n2.0,blue,unknown\n")
    galaxy("data", "add", tmp_path / "mine" / "owner.csv", "--label", "diagnosis", "--name", "good")
    galaxy("data", "add", tmp_path / "other.csv", "--label", "diagnosis", "--name", "other")
    assert asked("data", "match", "good", 1)["is_match"]
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as stopped:
        main(["data", "match", "other", "1", "--format", "json"])
    assert stopped.value.code == 3
    problems = {row["column"]: row["problem"] for row in json.loads(out.getvalue())["columns"]}
    assert problems["size_mm"] is None
    assert {name for name, problem in problems.items() if problem} == {"texture", "age", "diagnosis"}
    accepted = asked("job", "accept", 1)
    assert {row["name"]: row["refusal"] is None for row in accepted["datasets"]} == {
        "good": True,
        "other": False,
    }
    assert asked("job", "accept", 1) == accepted
    assert bootstrap.read_policy(Home(home)).accepted == (posted["terms_digest"],)

    # Nothing to claim or collect yet; only its requester may take it back; then the escrow is home again.
    assert "settled" in galaxy("job", "claim", 1, "--account", "e1", "--as", "e1", code=7)
    assert "settled" in galaxy("job", "collect", 1, "-o", tmp_path / "m", "--as", "requester", code=7)
    assert "once it is settled" in galaxy("receipt", 1, code=7)
    assert not (tmp_path / "m").exists()
    assert "only its requester" in galaxy("job", "cancel", 1, "--as", "e1", code=3)
    assert asked("job", "cancel", 1, "--as", "requester")["refunded"] == posted["escrow"]
    assert asked("wallet", "show", "requester")["tokens"] == str(2_000 * 10**18)
    assert asked("job", "show", 1)["phase"] == "aborted"
    assert "aborted" in galaxy("job", "watch", 1)
    assert "enrolling" in galaxy("job", "accept", 1, code=7)
    assert "enrolling" in galaxy("job", "cancel", 1, "--as", "requester", code=7)

    # Withdrawn consent is published for anybody to relay.
    galaxy("data", "remove", "good", "--revoke", "--as", "requester")
    assert [entry["name"] for entry in asked("data", "list")] == ["other"]

    async def revocations() -> int:
        async with bootstrap.open_world(Home(home)) as world:
            return len(await world.blobs.list(registry_topic(world.ledger, "revocations")))

    assert anyio.run(revocations) == 1


def test_keys_are_asked_for_by_name_and_passphrase(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is taken" in galaxy("wallet", "new", "requester", code=3)
    assert "key name" in galaxy("wallet", "new", "Not OK", code=3)
    monkeypatch.setenv("GALAXY_PASSPHRASE", "wrong")
    assert "wrong passphrase" in galaxy("job", "cancel", 1, code=9)
    assert "no key named" in galaxy("job", "cancel", 1, "--as", "nobody", code=9)
    assert "--tokens" in galaxy("wallet", "fund", "--tokens", "-1", code=3)
    assert "--stake" in galaxy("evaluator", "register", "--stake", "lots", code=3)


def test_a_home_joins_the_chain_of_another(home: Path, tmp_path: Path) -> None:
    known = asked("chain", "info")
    assert known["stores"] == [{"store": ".", "problem": None}]
    guest, key = ("--home", tmp_path / "guest"), "k" * 40

    def typed(*arguments: object, code: int = 0) -> str:
        return galaxy(*arguments, *guest, code=code)

    async def served() -> None:
        settings = bootstrap.load_settings(Home(home))
        async with (
            bootstrap.open_node(Home(home), settings) as chain,
            serve(chain, access_keys=[key]) as server,
        ):
            with bootstrap.announce_chain(Home(home), f"{server.url}/{key}"):
                await anyio.to_thread.run_sync(while_served, server.url, f"{server.url}/{key}")

    def while_served(shown: str, url: str) -> None:
        assert asked("chain", "info")["served_at"] == shown
        told = galaxy("chain", "serve", "--port", "0", code=3)
        assert told == f"galaxy: chain: this home's chain is already served at {shown}\n"
        invitation = tmp_path / "market.json"
        for format in ("table", "json"):
            told = galaxy("chain", "invite", "--store", "/b", "-o", invitation, "--format", format)
            assert shown in told
            assert key not in told
        assert json.loads(invitation.read_text())["chain"] == url
        join = ("chain", "join", url, "--jobs")
        told = typed("chain", "join", url, "--jobs", "0x12", code=3)
        assert told.strip().endswith("--jobs: '0x12' given; allowed: 0x and 40 hexadecimal digits")
        assert "no Galaxy contract" in typed(*join, known["token"], code=3)
        assert "checksum" in typed(*join, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", code=3)
        assert "blobs" in typed(*join, known["jobs"], "--store", "http://", code=3)
        told = typed(*join, known["jobs"], "--store", "ftp://user:word@foo", code=3)
        assert "blobs: 'ftp://' given; allowed: a folder, or a URL of http, https, s3" in told
        assert not (tmp_path / "guest" / "galaxy.json").exists()
        assert not (tmp_path / "guest" / "ftp:").exists()
        joined = json.loads(typed(*join, known["jobs"], "--store", "http://127.0.0.1:9", "--format", "json"))
        for name in ("chain_id", "token", "registry", "jobs"):
            assert joined[name] == known[name]
        assert joined["chain"] == shown
        assert key not in typed("chain", "info")
        (store,) = json.loads(typed("chain", "info", "--format", "json"))["stores"]
        assert store["store"] == "http://127.0.0.1:9"
        assert store["problem"] == "http://127.0.0.1:9: no answer: Connection refused"
        assert "no answer" in typed("chain", "info")
        assert "blobs are on a server" in typed("store", "check", code=3)
        assert typed("chain", code=3).endswith(f"uses {shown}; only an embedded chain is served\n")

    anyio.run(served)
    typed("job", "list", code=5)


def test_what_cannot_work_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAXY_PASSPHRASE", "secret")
    home = ("--home", tmp_path)
    told = galaxy("job", "list", *home, code=3)
    assert "no contracts are known" in told
    assert "galaxy chain join" in told
    assert "chain" in galaxy("chain", "deploy", "--chain", "gopher://x", *home, code=3)
    for url in ("http://127.0.0.1:9", "ws://127.0.0.1:9"):
        told = galaxy("chain", "deploy", "--chain", url, *home, code=5)
        assert told.endswith(f" at {url}: the node cannot be reached: Connection refused\n")
    assert "loopback" in galaxy("store", "serve", "--host", "0.0.0.0", *home, code=3)  # noqa: S104 - refused
    assert "no account here yet" in galaxy("owner", "run", *home, code=3)
    (tmp_path / "galaxy.json").write_text('{"chian": 1}')
    assert "chian" in galaxy("chain", "info", *home, code=3)


def test_the_store_is_listed_and_checked(home: Path) -> None:
    async def put() -> str:
        async with bootstrap.open_world(Home(home)) as world:
            return (await world.blobs.put(b"blob", topic="job/1")).hex()

    digest = anyio.run(put)
    assert asked("store", "list") == [{"topic": "job/1", "blobs": 1}]
    assert asked("store", "list", "job/1") == [{"digest": digest}]
    assert asked("store", "check") == {"blobs": 1, "problems": []}
    assert "topic" in galaxy("store", "list", "../x", code=3)
    (home / "blobs" / digest).chmod(0o644)
    (home / "blobs" / digest).write_bytes(b"blub")
    assert digest in galaxy("store", "check", code=3)


def test_several_stores_are_repaired_from_each_other(home: Path) -> None:
    settings = json.loads((home / "galaxy.json").read_text())
    assert "needs several" in galaxy("store", "repair", code=3)
    (home / "galaxy.json").write_text(json.dumps(settings | {"blobs": ["one", "two"]}))

    async def put() -> str:
        async with bootstrap.open_world(Home(home)) as world:
            return (await world.blobs.put(b"blob", topic="job/1")).hex()

    digest = anyio.run(put)
    assert asked("store", "repair") == {"blobs": 1, "faults": [], "missing": {"1: one": 0, "2: two": 0}}
    (home / "two" / "blobs" / digest).unlink()
    (fault,) = asked("store", "repair", "job/1")["faults"]
    assert fault == {"store": "2: two", "kind": "lost", "digest": digest, "is_repaired": True}
    assert "nothing" not in galaxy("store", "repair")
    for name in ("one", "two"):
        (home / name / "blobs" / digest).write_bytes(b"blub")
    assert "2 faults left" in galaxy("store", "repair", code=3)
    assert asked("store", "list", "job/1") == [{"digest": digest}]
    assert "several stores" in galaxy("store", "check", code=3)


def test_a_home_signs_what_it_asks_of_a_server(home: Path, tmp_path: Path) -> None:
    authority, certificate, key = certificates(tmp_path)
    account = next(row["address"] for row in asked("wallet", "list") if row["name"] == "requester")
    settings = json.loads((home / "galaxy.json").read_text())
    server = serving(
        tmp_path / "store",
        tls_certificate=str(certificate),
        tls_key=str(key),
        accounts=(account,),
        must_sign_reads=True,
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server) as url:

        def use(**access: object) -> None:
            changed = settings | {"blobs": url, "blob_access": {"retries": 0, **access}}
            (home / "galaxy.json").write_text(json.dumps(changed))

        use(ca_file=str(authority), account="requester", signs_reads=True)
        assert asked("store", "list", "job/1") == []
        use(ca_file=str(authority))
        assert "signed requests" in galaxy("store", "list", "job/1", code=6)
        use(account="requester", signs_reads=True)
        told = galaxy("store", "list", "job/1", code=6)
        assert f"{url}: no answer: no TLS with it: " in told
        assert "ssl:" not in told
        use(ca_file=str(authority), account="nobody", signs_reads=True)
        assert "no key named" in galaxy("store", "list", "job/1", code=9)


def test_what_listens_refuses_to_listen_wider_without_tls_and_keys(tmp_path: Path) -> None:
    for command in (("store", "serve"), ("chain",), ("chain", "serve")):
        wide = (*command, "--home", tmp_path / "x", "--host", "0.0.0.0")  # noqa: S104 - refused
        assert "takes TLS" in galaxy(*wide, code=3)
        assert "takes keys" in galaxy(*wide, "--behind-proxy", code=3)
        assert "together" in galaxy(*wide, "--tls-cert", "x", code=3)
        assert "takes keys" in galaxy(*wide, "--tls-cert", "x", "--tls-key", "y", code=3)
    serve = ("store", "serve", "--home", tmp_path / "x", "--port", "0")
    assert "no such file" in galaxy(*serve, "--config", tmp_path / "nothing", code=3)
    assert "--allow" in galaxy(*serve, "--allow", "0x12", code=3)
    keys = ("--tls-cert", "x", "--tls-key", "y", "--allow", "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf")
    assert "certificate or key cannot be used" in galaxy(*serve, "--host", "0.0.0.0", *keys, code=3)  # noqa: S104
    (tmp_path / "keys").write_text("short\n")
    wide = ("chain", "--home", tmp_path / "x", "--behind-proxy", "--access-keys", tmp_path / "keys")
    assert "32 to 128" in galaxy(*wide, code=3)
    assert "cannot be read" in galaxy(*wide[:-1], tmp_path / "nothing", code=3)


def test_a_policy_that_became_unreadable_allows_nothing(tmp_path: Path) -> None:
    home, told = Home(tmp_path), list[Progress]()
    current = watched_policy(home, told.append)
    bootstrap.save_policy(home, OwnerPolicy(requesters=("*",)))
    assert current().requesters == ("*",)
    home.policy.write_text("{")
    assert current() == current() == OwnerPolicy()
    assert len(told) == 1
    bootstrap.save_policy(home, OwnerPolicy(requesters=("*",)))
    assert current().requesters == ("*",)


def test_evaluators_are_listed_with_what_they_can_lock(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first of them is beyond what is read of the chain at once.
    monkeypatch.setattr(evm, "EMBEDDED_SPAN_BLOCKS", 2)
    galaxy("wallet", "new", "e1", "--light")
    galaxy("wallet", "fund", "e1")
    assert asked("evaluator", "list") == []
    galaxy("wallet", "new", "poor", "--light")
    told = galaxy("evaluator", "register", "--as", "poor", "--stake", "60", code=3)
    assert "owns 0 tokens; the tokens still to be staked are 60" in told
    assert "galaxy wallet fund" in told
    galaxy("wallet", "fund", "poor", "--coins", "0")
    told = galaxy("evaluator", "register", "--as", "poor", "--stake", "60", code=5)
    assert "insufficient funds" in told
    assert "galaxy wallet fund" in told
    galaxy("evaluator", "register", "--as", "e1", "--stake", "60")
    (row,) = asked("evaluator", "list")
    assert (row["staked"], row["free"]) == (str(60 * 10**18), str(60 * 10**18))
    assert galaxy("evaluator", "list", "--addresses").strip() == row["address"]


def test_a_home_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = galaxy("chain", "deploy", "--home", tmp_path / "file" / "home", code=6)
    assert "could not make the folder" in told


def test_an_invitation_is_written_and_joined_or_refused(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "market.json"
    assert "a URL that others can reach" in galaxy("chain", "invite", "-o", file, code=3)
    assert not file.exists()
    url = ("--url", "http://127.0.0.1:1")
    shown = asked("chain", "invite", *url, "-o", file)
    assert shown == json.loads(file.read_text())
    assert shown["blobs"] == str(home)
    other = ("--home", tmp_path / "other")
    assert "127.0.0.1:1" in galaxy("chain", "join", file, *other, code=5)
    assert "--jobs" in galaxy("chain", "join", "http://127.0.0.1:1", *other, code=3)
    assert "invitation" in galaxy("chain", "join", tmp_path / "none.json", *other, code=3)
    file.write_text(json.dumps({**shown, "extra": 1}))
    assert "extra" in galaxy("chain", "join", file, *other, code=3)
    assert not (tmp_path / "other" / "galaxy.json").exists()
