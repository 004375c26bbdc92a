"""What a running node tells its operator: lines, metrics, readiness."""

from __future__ import annotations

import json
import re
from typing import Any

import anyio
import pytest
from aiohttp import ClientSession

from galaxylearning.cli.health import NodeHealth, serve_health
from galaxylearning.cli.options import Format
from galaxylearning.errors import ConfigRefused, LedgerUnreachable
from galaxylearning.nodes.site import Progress

ACCOUNT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


async def _get(url: str) -> tuple[int, str]:
    async with ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


def test_metrics_and_readiness_follow_what_the_node_does(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        health = NodeHealth(Format.JSON, "owner north")
        async with serve_health(health, 0) as url:
            assert url is not None
            assert (await _get(f"{url}/live"))[0] == 200
            status, text = await _get(f"{url}/ready")
            assert (status, json.loads(text)["seconds_since_look"]) == (503, None)
            health.report(Progress(7, f"data owner {ACCOUNT}", "update sent", {"detail": "round 0"}))
            health.pulse(None)
            assert (await _get(f"{url}/ready"))[0] == 200
            for _ in range(3):
                health.pulse(LedgerUnreachable("no answer", where="http://127.0.0.1:1"))
            status, text = await _get(f"{url}/ready")
            assert status == 503
            assert "no answer" in json.loads(text)["trouble"]
            _, metrics = await _get(f"{url}/metrics")
            found: dict[str, Any] = dict(re.findall(r"^(galaxy.+) (\S+)$", metrics, re.MULTILINE))
            assert found['galaxy_steps_total{actor="data owner",step="update sent"}'] == "1.0"
            assert found['galaxy_troubles_total{kind="LedgerUnreachable"}'] == "3.0"
            assert found["galaxy_looks_total"] == "1.0"
            assert found["galaxy_ready"] == "0.0"
            assert "process_resident_memory_bytes" in metrics
            health.pulse(None)
            assert (await _get(f"{url}/ready"))[0] == 200
            port = int(url.rpartition(":")[2])
            with pytest.raises(ConfigRefused, match="cannot listen"):
                async with serve_health(health, port):
                    pass

    anyio.run(main)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["level"], line["step"]) for line in lines] == [
        ("info", "metrics are served"),
        ("info", "update sent"),
        ("warning", "trouble, trying again"),
        ("info", "all is well again"),
    ]
    assert lines[1]["facts"] == {"account": ACCOUNT, "detail": "round 0"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", lines[0]["at"])


def test_people_read_rounds_from_one_and_programs_the_index(capsys: pytest.CaptureFixture[str]) -> None:
    step = Progress(3, "evaluator", "round anchored", {"round_index": 0, "updates": 4})
    for format in Format:
        NodeHealth(format, "evaluator").report(step)
    for_people, for_programs = capsys.readouterr().out.splitlines()
    assert for_people.endswith("job 3  evaluator: round anchored  round=1  updates=4")
    assert json.loads(for_programs)["facts"] == {"round_index": "0", "updates": "4"}


def test_a_line_for_people_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    NodeHealth(Format.TABLE, "owner").report(Progress(3, "evaluator", "given up", {"error": "\x1b[2J\nboo"}))
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d job 3  evaluator: given up  error=.\[2J boo", line)


def test_without_a_port_nothing_listens() -> None:
    async def main() -> None:
        async with serve_health(NodeHealth(Format.TABLE, "owner"), None) as url:
            assert url is None

    anyio.run(main)
