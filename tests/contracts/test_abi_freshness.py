"""The committed artifacts are what the committed sources compile to."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTRACTS = REPOSITORY / "contracts"
ARTIFACTS = REPOSITORY / "src/galaxylearning/chain/abi"
NAMES = ("DemoToken", "GalaxyJobs", "GalaxyRegistry", "GalaxyTypesHarness")
STALE = "the artifacts are stale: run `make -C contracts build` and commit what it writes"


def source_digest(folder: Path) -> str:
    """SHA-256 over sources, compiler settings and versions, as contracts/scripts/artifacts.js computes it."""
    digest = hashlib.sha256()

    def add(name: str, content: bytes) -> None:
        digest.update(b"%s\0%d\0%s" % (name.encode(), len(content), content))

    for name in sorted(path.relative_to(folder).as_posix() for path in (folder / "src").rglob("*.sol")):
        add(name, (folder / name).read_bytes())
    add("settings.json", (folder / "settings.json").read_bytes())
    dependencies = json.loads((folder / "package.json").read_text())["dependencies"]
    for name in ("@openzeppelin/contracts", "solc"):
        add(name, dependencies[name].encode())
    return digest.hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_the_artifact_is_of_these_sources(name: str) -> None:
    artifact = json.loads((ARTIFACTS / f"{name}.json").read_text())
    assert artifact["source_digest"] == source_digest(CONTRACTS), STALE
    assert set(artifact) == {"abi", "bytecode", "source_digest"}
    assert len(bytes.fromhex(artifact["bytecode"].removeprefix("0x"))) > 1000


def test_there_are_no_other_artifacts() -> None:
    assert sorted(path.stem for path in ARTIFACTS.glob("*.json")) == sorted(NAMES)


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    for name in ("package.json", "settings.json"):
        (tmp_path / name).write_bytes((CONTRACTS / name).read_bytes())
    for path in (CONTRACTS / "src").rglob("*.sol"):
        copy = tmp_path / path.relative_to(CONTRACTS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    assert source_digest(tmp_path) == source_digest(CONTRACTS)
    with (tmp_path / "src/GalaxyJobs.sol").open("a") as file:
        file.write(" ")
    assert source_digest(tmp_path) != source_digest(CONTRACTS)


@pytest.mark.skipif(
    not (CONTRACTS / "node_modules/solc").exists(),
    reason="no compiler: npm ci in contracts/",
)
def test_compiling_again_gives_the_same_bytes(tmp_path: Path) -> None:
    command = ["node", "scripts/artifacts.js", str(tmp_path)]
    subprocess.run(command, cwd=CONTRACTS, check=True, capture_output=True, timeout=600)
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_bytes() == (ARTIFACTS / f"{name}.json").read_bytes(), STALE
