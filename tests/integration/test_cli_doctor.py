"""``galaxy doctor``: each thing that can be wrong is found, named, and comes with what to do."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import anyio
import pytest

from galaxylearning import bootstrap, stores
from galaxylearning.chain.signer import KeySigner
from galaxylearning.cli import doctor_machine, main
from galaxylearning.cli.doctor_home import MAX_AHEAD_S, MAX_SILENCE_S, _clock, home_findings
from galaxylearning.cli.findings import Finding
from galaxylearning.config import BlobAccess, Home, Settings
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.sandbox.locks import STOPS, Locks
from galaxylearning.storage.keystore import KeyStore

ENTROPY = os.urandom


def look(home: Home, chain: str | None = None) -> dict[str, Finding]:
    """The findings of a home by their check; the last where several share a name."""
    return {finding.check: finding for finding in anyio.run(home_findings, home, chain)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that has everything: a key, a policy, contracts on its chain."""
    home = Home(tmp_path / "home")
    home.root.mkdir(mode=0o755)
    KeyStore(home.keys, light=True).create_account("me", "passphrase", entropy=ENTROPY)
    bootstrap.save_policy(home, OwnerPolicy(requesters=("*",)))
    anyio.run(bootstrap.deploy_contracts, home, KeySigner(b"\x01" * 32))
    return home


def test_a_home_in_order_has_no_problem_and_the_blob_is_written_once(home: Home) -> None:
    for _ in range(2):
        found = look(home)
        assert {name: one.found for name, one in found.items() if one.status == "problem"} == {}
        for check in ("home", "keys", "policy", "settings", "chain", "finality", "contracts", "blob store ."):
            assert found[check].status == "ok", found[check]
        assert "3,600 s, 8.0 GiB of memory" in found["policy"].found
    blobs = stores.open_blobs(home, Settings())
    assert len(anyio.run(blobs.list, "doctor")) == 1


def test_a_key_that_others_can_read_is_found(home: Home) -> None:
    (key,) = home.keys.glob("accounts/*.json")
    key.chmod(0o640)
    finding = look(home)["keys"]
    assert finding.status == "problem"
    assert finding.remedy == f"chmod 600 {key}"
    key.chmod(0o600)
    home.keys.chmod(0o755)
    assert look(home)["keys"].remedy == f"chmod 700 {home.keys}"


def test_a_home_that_others_can_write_to_is_found(home: Home) -> None:
    home.root.chmod(0o775)
    assert look(home)["home"].remedy == f"chmod go-w {home.root}"


@pytest.mark.parametrize(
    ("file", "text", "check", "said"),
    [
        ("galaxy.json", '{"chains": "x"}', "settings", "chains"),
        ("policy.json", '{"sandbox": "off"}', "policy", "sandbox"),
    ],
)
def test_a_file_that_cannot_be_read_is_found(home: Home, file: str, text: str, check: str, said: str) -> None:
    (home.root / file).write_text(text)
    finding = look(home)[check]
    assert finding.status == "problem"
    assert said in finding.found
    assert str(home.root / file) in finding.remedy


def test_a_chain_that_does_not_answer_is_found(home: Home) -> None:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{end.getsockname()[1]}"
        finding = look(home, url)["chain"]
    assert finding.status == "problem"
    assert "galaxy.json" in finding.remedy


def test_contracts_that_are_elsewhere_are_found(home: Home) -> None:
    settings = bootstrap.load_settings(home)
    known = json.loads(settings.deployment)
    for changes, said in (
        ({"chain_id": 5}, "they are on chain 5"),
        ({"jobs": "0x5FbDB2315678afecb367f032d93F642f64180aa3"}, "no code for jobs at 0x5FbDB"),
    ):
        changed = Settings(deployment=json.dumps(known | changes))
        bootstrap.save_settings(home, changed)
        finding = look(home)["contracts"]
        assert finding.status == "problem"
        assert said in finding.found


def test_a_store_that_cannot_be_written_to_is_found(home: Home) -> None:
    (home.root / "taken").write_text("a file where a folder should be")
    bootstrap.save_settings(home, Settings(blobs=(".", "taken")))
    found = look(home)
    assert found["blob store ."].status == "ok"
    finding = found["blob store taken"]
    assert finding.status == "problem"
    assert "taken" in finding.found


def test_stores_of_which_several_must_hold_a_blob_are_tried_one_by_one(home: Home) -> None:
    bootstrap.save_settings(home, Settings(blobs=("one", "two"), blob_access=BlobAccess(copies=2)))
    found = look(home)
    assert [found[f"blob store {name}"].status for name in ("one", "two")] == ["ok", "ok"]


def test_the_key_in_the_url_of_a_chain_is_nobody_elses(home: Home) -> None:
    bootstrap.save_settings(home, Settings(chain="http://user:SECRET@127.0.0.1:1/SECRET?key=SECRET"))
    assert home.settings_file.stat().st_mode & 0o777 == 0o600
    found = look(home)
    assert found["settings"].found == "chain http://127.0.0.1:1, blobs ."
    assert "SECRET" not in str(found)
    home.settings_file.write_text('{"chain": "htp://user:SECRET@host/SECRET"}')
    found = look(home)
    assert "'htp://host' given" in found["settings"].found
    assert "SECRET" not in str(found)


def test_an_empty_home_and_none_are_notes(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tmp_path.chmod(0o700)
    assert {one.status for one in look(home).values()} == {"ok", "note"}
    assert look(home)["chain"].status == "note"
    assert list(look(Home(tmp_path / "none"))) == ["home"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may look at everything")
def test_a_home_of_somebody_else_is_one_problem(home: Home) -> None:
    home.keys.chmod(0)
    try:
        (finding,) = look(home).values()
    finally:
        home.keys.chmod(0o700)
    assert (finding.check, finding.status) == ("home", "problem")


def test_clocks_that_disagree_are_found() -> None:
    assert _clock(1000, 1000.0).status == "ok"
    assert _clock(1000 + MAX_AHEAD_S, 1000.0).status == "ok"
    ahead = _clock(1001 + MAX_AHEAD_S, 1000.0)
    assert (ahead.status, ahead.check) == ("problem", "clock")
    assert "16 s ahead" in ahead.found
    assert _clock(1000, 1000.0 + MAX_SILENCE_S).status == "ok"
    assert _clock(1000, 1001.0 + MAX_SILENCE_S).status == "note"


def test_libraries_that_do_not_fit_are_named() -> None:
    lines = [
        "numpy>=2",
        "numpy==1.0",
        "no-such-package>=1",
        "x; python_version < '3'",
        "y; extra == 'ray'",
        "!",
    ]
    assert [line for line, _ in doctor_machine._unmet(lines)] == ["numpy==1.0", "no-such-package>=1"]
    assert dict(doctor_machine._unmet(lines))["no-such-package>=1"] == "not installed"
    assert [line for line, _ in doctor_machine._applying(lines)] == lines[:3]


def test_what_the_machine_cannot_lock_is_a_problem_unless_the_policy_allows_it(tmp_path: Path) -> None:
    home, bare = Home(tmp_path), Locks({}, {"seccomp": "not here"}, ("files",))

    def statuses() -> dict[str, str]:
        return {one.check: one.status for one in doctor_machine._layers(home, bare)}

    assert statuses()["sandbox stops files"] == "ok"
    assert statuses()["sandbox stops network"] == "problem"
    assert statuses()["sandbox cannot: seccomp"] == "note"
    bootstrap.save_policy(home, OwnerPolicy(sandbox="best-effort"))
    assert statuses()["sandbox stops network"] == "note"


def test_disk_memory_and_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    bootstrap.save_policy(home, OwnerPolicy(maximum_memory_bytes=1 << 46))
    assert [one.check for one in doctor_machine._memory(home)] == ["cpu and memory", "memory cap"]
    assert doctor_machine._first_existing(tmp_path / "a" / "b") == tmp_path
    assert doctor_machine._disk("disk", tmp_path).status in ("ok", "problem")
    assert doctor_machine._disk("disk", tmp_path / "none").status == "problem"
    assert doctor_machine._temporary_folder().status == "ok"
    monkeypatch.setattr(doctor_machine, "LEAST_DISK_BYTES", 1 << 80)
    assert doctor_machine._disk("disk", tmp_path).status == "problem"


def test_a_port_that_is_taken_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(doctor_machine, "PORTS", {server.getsockname()[1]: "galaxy chain"})
        (finding,) = doctor_machine._ports()
    assert finding.status == "note"
    assert "galaxy chain" in finding.remedy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the worker is locked on Linux")
def test_the_command_prints_one_document_and_its_exit_code_tells(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.root.chmod(0o777)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--home", str(home.root), "--format", "json"])
    assert ended.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    checks = {one["check"]: one for one in told["checks"]}
    assert [name for name, one in checks.items() if one["status"] == "problem"] == ["home"]
    for name in STOPS:
        assert checks[f"sandbox stops {name}"]["status"] == "ok"
    assert "1 thread" in checks["worker"]["found"]
    assert checks["sandbox can: seccomp"]["found"]


def test_the_table_names_problems_and_what_to_do(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_machine, "machine_findings", lambda _home: [])
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--home", str(home.root)])
    assert ended.value.code == 0
    assert "No problem found." in capsys.readouterr().out
    home.root.chmod(0o777)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--home", str(home.root)])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "PROBLEM" in told
    assert f"problem: home: chmod go-w {home.root}" in told
    assert "1 problem found." in told
