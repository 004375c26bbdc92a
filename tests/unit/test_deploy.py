"""What is shipped to run Galaxy Learning as services: every sample is read, every command exists."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]

from galaxylearning.cli import app
from galaxylearning.config import Invitation, Settings, invitation_from_json, settings_from_json
from galaxylearning.protocol.consent import OwnerPolicy, policy_from_json
from galaxylearning.storage.store_settings import StoreSettings, store_settings_from_json

DEPLOY = Path(__file__).parents[2] / "deploy"
READERS = {
    "galaxy": (settings_from_json, Settings),
    "invitation": (invitation_from_json, Invitation),
    "policy": (policy_from_json, OwnerPolicy),
    "store": (store_settings_from_json, StoreSettings),
}


def parse(arguments: list[str]) -> None:
    """Parse a command of ``galaxy`` without running it; raises click's errors for what does not exist."""
    command: Any = typer.main.get_command(app)
    context = None
    while True:
        context = command.make_context(
            command.name or "galaxy", list(arguments), parent=context, resilient_parsing=False
        )
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "commands") or not rest:
            return
        name, command, arguments = command.resolve_command(context, rest)
        assert command is not None, name


@pytest.mark.parametrize("path", sorted((DEPLOY / "samples").iterdir()), ids=lambda path: path.name)
def test_every_sample_is_read_and_shows_only_known_keys(path: Path) -> None:
    read, kind = READERS[re.split(r"[-.]", path.name)[0]]
    found = read(path.read_bytes())
    assert isinstance(found, kind)


def test_the_sample_policy_has_every_field() -> None:
    shown = yaml.safe_load((DEPLOY / "samples" / "policy.json").read_text())
    assert set(shown) == set(OwnerPolicy.__struct_fields__)


def test_the_sample_of_a_store_has_every_field_that_a_proxy_does_not_replace() -> None:
    shown = yaml.safe_load((DEPLOY / "samples" / "store.json").read_text())
    assert set(shown) == set(StoreSettings.__struct_fields__) - {"is_behind_proxy"}
    store_settings_from_json((DEPLOY / "samples" / "store.json").read_bytes()).listening(DEPLOY).check(
        keys=""
    )


@pytest.mark.parametrize("path", sorted((DEPLOY / "systemd").iterdir()), ids=lambda path: path.name)
def test_the_command_of_every_unit_exists(path: Path) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(path.read_text())
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "galaxy"
    parse(arguments)
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"


def test_the_command_of_every_container_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in compose["services"].values():
        parse(shlex.split(service["command"]))
        assert service["read_only"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source.startswith("../")
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_image_copies_what_is_there() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (DEPLOY.parent / source).exists(), source


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match=r"No such (command|option)"):
        parse(["owner", "run", "--not-an-option"])
