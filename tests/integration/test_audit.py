"""``galaxy audit`` on a demo's home: whatever was changed afterwards is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from galaxylearning.cli import output
from galaxylearning.cli.audit import References, as_json, audit_home, show
from galaxylearning.config import Home
from galaxylearning.crypto.seal import SealingKey, seal
from galaxylearning.errors import ConfigRefused, GalaxyError
from galaxylearning.messages import typed
from galaxylearning.messages.records import CohortList, ModelRelease, RoundList, SignedEnrolment, SignedUpdate
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.auditor import Auditor, AuditReport
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.site import ignore_progress
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort, accept_updates, form_cohort
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation import federation
from galaxylearning.units import Digest

if TYPE_CHECKING:
    from tests.integration.conftest import DemoRun, Stage, Town

JOB = 1
ROLES = (
    "terms",
    "enrolments",
    "cohort",
    "cohort~votes",
    "round~0~openings",
    "round~1~parcels",
    "round~0~updates",
    "round~0~bodies",
    "round~0~gate~answers",
    "round~0~gate~blobs",
    "round~0~sum~sets",
    "round~1~value~blobs",
    "round~1~lists",
    "scores",
    "payouts",
    "release",
    "release~models",
    "keys",
)


def audit(home: Path) -> AuditReport:
    report, _ = anyio.run(audit_home, Home(home), JOB)
    return report


def blobs_of(home: Path, role: str) -> list[Path]:
    """Blobs that are listed under the topics of one role."""
    topics = home / "topics"
    found = [t for t in topics.iterdir() if t.name.endswith(f"~{role}") or t.name.startswith(f"{role}~")]
    assert found, role
    return sorted(home / "blobs" / entry.name for topic in found for entry in topic.iterdir())


def unlist(home: Path, name: str) -> None:
    """Take a blob out of every topic, so that only what needs it can miss it."""
    for entry in (home / "topics").glob(f"*/{name}"):
        entry.unlink()


@pytest.fixture(scope="module")
def copied(demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of this module's own."""
    home = tmp_path_factory.mktemp("audited") / "home"
    shutil.copytree(demo_run.home, home)
    return home


@pytest.fixture
def home(copied: Path) -> Iterator[Path]:
    """The home, put in order again after the test."""
    blobs = {path: path.read_bytes() for path in (copied / "blobs").iterdir()}
    entries = list((copied / "topics").glob("*/*"))
    yield copied
    for path, data in blobs.items():
        path.write_bytes(data)
    for entry in entries:
        entry.touch()


def test_what_nobody_touched_is_in_order_and_everything_was_computed_again(copied: Path) -> None:
    report = audit(copied)
    assert (report.verdict, report.is_full, report.problems) == ("ok", True, ())
    checks = [finding.check for finding in report.findings]
    assert len(set(checks)) == len(checks)
    scores = {"scores revealed", "scores consistent", "scores recomputed"}
    assert {"blobs", "cohort", "round 1", "round 2", "model", "payouts", "money", *scores} <= set(checks)
    assert as_json(report, None)["verdict"] == "ok"


@pytest.mark.parametrize("role", ROLES)
def test_one_flipped_bit_in_a_blob_of_any_role_is_found_and_named(home: Path, role: str) -> None:
    path = blobs_of(home, role)[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    _fails_naming(home, path.name)


def _fails_naming(home: Path, name: str) -> None:
    report = audit(home)
    assert report.verdict == "failed"
    said = [f"{problem.check} {problem.detail} {problem.problem}" for problem in report.problems]
    assert any(name in line for line in said), said


def test_two_swapped_blobs_are_both_named(home: Path) -> None:
    first, second = blobs_of(home, "round~0~bodies")[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    _fails_naming(home, first.name)
    _fails_naming(home, second.name)


def test_a_deleted_blob_is_named(home: Path) -> None:
    path = blobs_of(home, "round~1~updates")[0]
    path.unlink()
    _fails_naming(home, path.name)


@pytest.mark.parametrize("role", ["enrolments", "round~0~updates", "round~1~bodies", "scores", "payouts"])
def test_a_blob_that_was_deleted_and_unlisted_is_missed_by_what_needs_it(home: Path, role: str) -> None:
    for path in blobs_of(home, role) if role == "scores" else blobs_of(home, role)[:1]:
        path.unlink()
        unlist(home, path.name)
    report = audit(home)
    assert report.verdict == "failed"
    where = {
        "enrolments": "cohort",
        "round~0~updates": "round 1",
        "round~1~bodies": "round 2",
        "scores": "scores revealed",
        "payouts": "payouts",
    }
    assert where[role] in {problem.check for problem in report.problems}


def test_a_tampered_score_is_found(home: Path) -> None:
    path = blobs_of(home, "scores")[0]
    data = path.read_bytes()
    assert b"value" in data
    path.write_bytes(data.replace(b"rejected", b"accepted", 1) if b"rejected" in data else data[:-1] + b"\0")
    _fails_naming(home, path.name)


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 1_000_000])
def test_a_blob_that_became_something_else_is_named(home: Path, data: bytes) -> None:
    path = blobs_of(home, "round~0~parcels")[0]
    path.write_bytes(data)
    _fails_naming(home, path.name)


def test_what_does_not_belong_is_named_and_a_foreign_record_under_a_topic_is_not_a_fault(home: Path) -> None:
    stray = home / "blobs" / "stray"
    stray.write_bytes(b"")
    _fails_naming(home, "stray")
    report = audit(home)
    assert (report.is_full, [problem.check for problem in report.problems]) == (True, ["blobs"])
    stray.unlink()
    assert audit(home).verdict == "ok"


def test_a_job_that_does_not_exist_is_refused(copied: Path) -> None:
    async def other() -> None:
        await audit_home(Home(copied), 2)

    with pytest.raises(GalaxyError, match="no job 2"):
        anyio.run(other)


def test_another_value_can_stand_beside_the_one_that_paid_where_updates_are_seen(
    copied: Path, tmp_path: Path
) -> None:
    async def with_value(home: Path, name: str) -> tuple[AuditReport, References | None]:
        return await audit_home(Home(home), JOB, None, name)

    options = federation.Options(owners=5, rounds=1, privacy="sealed")
    sealed = federation.prepare_home(tmp_path / "sealed", options)
    anyio.run(lambda: federation.run(sealed, options, report=ignore_progress))
    report, references = anyio.run(with_value, sealed.root, "leave-one-out")
    assert report.verdict == "ok"
    assert references is not None
    assert all(set(row) == {"path", "leave-one-out"} for row in references.values.values())
    assert set(references.units.values()) == {"nats per sample"}
    _, distances = anyio.run(with_value, sealed.root, "distance-to-mean")
    assert as_json(report, distances)["value_units"] == {
        "path": "nats per sample",
        "distance-to-mean": "lengths of updates",
    }
    with pytest.raises(ConfigRefused, match="popularity"):
        anyio.run(with_value, sealed.root, "popularity")
    with pytest.raises(ConfigRefused, match="this job's are masked"):
        anyio.run(with_value, copied, "leave-one-out")


def test_a_key_that_is_no_evaluators_opens_nothing_and_does_not_fail_the_job(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play()
            cases: list[tuple[SealingKey | None, bool]] = [
                (stage.sealing_key("evaluator-2"), True),
                (stage.sealing_key("east"), False),
                (SealingKey(bytes(96)), False),
                (None, False),
            ]
            for key, is_full in cases:
                report = await stage.audit(key)
                assert (report.verdict, report.is_full) == ("ok", is_full)
                skipped = [one.check for one in report.findings if one.is_skipped]
                assert skipped == ([] if is_full else ["models", "scores recomputed"])
                show(report, None, output.console())
                told = " ".join(capsys.readouterr().out.split())
                assert told.count("not checked") == len(skipped)
                assert ("at its home: galaxy audit 1 --key NAME" in told) is not is_full

    anyio.run(main)


@pytest.mark.parametrize("phase", [Phase.ENROLLING, Phase.TRAINING, Phase.COMMITTING, Phase.REVEALING])
def test_a_job_under_way_can_be_audited(town: Town, tmp_path: Path, phase: Phase) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is phase)
            report = await stage.audit(stage.sealing_key("evaluator-1"))
            assert report.verdict == "ok"
            assert "payouts" not in {finding.check for finding in report.findings}

    anyio.run(main)


def test_a_release_is_an_envelope_for_the_requester_and_is_due_after_a_while(
    town: Town, tmp_path: Path
) -> None:
    class Keeping(SeatedJob):
        async def _settled(self, _state: JobState) -> bool:
            return True

    class Keeper(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return Keeping(self, self._view, job_id, terms)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            for name in stage.evaluators:
                stage.add_evaluator(name, Keeper)
            state = await stage.play()
            site, board = stage.site("passer-by"), stage.board()

            async def post(sealed: Digest, sender: str = "north") -> None:
                who = stage.account(sender)
                await board.post(
                    "release",
                    ModelRelease(
                        job_id=stage.job_id, model_digest=state.model_digest, sealed=sealed, evaluator=who
                    ),
                )

            def envelope(key: SealingKey, kind: str = "release") -> bytes:
                context = assembly.round_context(site, stage.job_id, 0, kind, stage.account("north"))
                return seal(b"a model", [key.public], context, entropy=site.entropy)

            assert await _release(stage) == (None, "the trained model is still to be released")
            await post(Digest(bytes(32)))
            await post(await board.put("release/models", envelope(stage.sealing_key("east"))))
            await post(await board.put("release/models", envelope(stage.sealing_key("requester"), "update")))
            stage.time_s = state.phase_start + state.windows.settle_s
            assert await _release(stage) == ("the trained model was not released", "model")
            await post(await board.put("release/models", envelope(stage.sealing_key("requester"))))
            said = "a model was sealed to the requester, who alone can tell which it is"
            assert await _release(stage) == (None, said)

    anyio.run(main)


async def _release(stage: Stage) -> tuple[str | None, str]:
    return next((one.problem, one.detail) for one in (await stage.audit()).findings if one.check == "release")


def test_updates_that_were_late_are_told_by_whose_they_are(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            west = stage.nodes.pop("west")
            await stage.play(until=lambda state: state.round_index == 1)
            assert not await _late(stage)
            site = stage.site("west")
            model = (await stage.view()).anchors_of(stage.job_id)[0].model_digest
            terms = await stage.terms()
            body = await stage.board().put("round/0/bodies", b"what it would have sent")
            update = typed.Update(stage.job_id, 0, terms.digest, site.address, model, body)
            signature = site.signer.sign_digest(update.digest(site.domain()))
            await stage.board().post(
                "round/0/updates", SignedUpdate.from_message(update, signature=signature)
            )
            stage.nodes["west"] = west
            await stage.play()
            late = f"signed and posted, but late or not counted: {site.address}"
            assert await _late(stage) == [("round 1", late)]
            assert (await stage.audit()).verdict == "ok"

    anyio.run(main)


async def _late(stage: Stage) -> list[tuple[str, str]]:
    return [(one.check, one.detail) for one in (await stage.audit()).findings if " late " in one.detail]


def test_endpoints_that_contradict_each_other_fail_the_audit(town: Town, tmp_path: Path) -> None:
    class Held:
        def __init__(self, ledger: Any) -> None:
            self._ledger = ledger

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ledger, name)

        async def follow(self, *given: Any) -> Any:
            return replace(await self._ledger.follow(*given), hold="two answers about block 17")

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play()
            report = await Auditor(stage.site("auditor", ledger=Held(stage.ledger)), stage.job_id).run()
            assert [(one.detail, one.problem) for one in report.problems] == [
                ("endpoints", "two answers about block 17")
            ]

    anyio.run(main)


class Backwards:
    """A store that lists the last blobs first, and remembers how long each was allowed to be."""

    def __init__(self, blobs: Any) -> None:
        self.blobs, self.limits = blobs, dict[Digest, int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blobs, name)

    async def list(self, topic: str) -> Any:
        return (await self.blobs.list(topic))[::-1]

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        self.limits[digest] = max_bytes
        found: bytes = await self.blobs.get(digest, max_bytes=max_bytes)
        return found


def test_lists_that_are_not_the_anchored_ones_are_not_worked_on(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may post them: a long one is not read, of one with another root no entry is looked at."""
    formed = []

    def counting(*given: Any, **named: Any) -> Cohort:
        formed.append(given)
        return form_cohort(*given, **named)

    def accepting(*given: Any, **named: Any) -> AcceptedUpdates:
        formed.append(given)
        return accept_updates(*given, **named)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play()
            board, job = stage.board(), stage.job_id
            many = tuple(index.to_bytes(32, "big") for index in range(1000))
            own = tuple(sorted(await board.read("enrolments", SignedEnrolment)))
            sent = tuple(sorted(await board.read("round/0/updates", SignedUpdate)))
            posted = [
                await board.post("cohort", CohortList(job_id=job, enrolments=some, direct=()))
                for some in (own[:2], own[1:], many)
            ]
            posted += [
                await board.post(
                    "round/0/lists", RoundList(job_id=job, round_index=0, updates=some, direct=())
                )
                for some in (sent[:2], sent[1:], many)
            ]
            blobs = Backwards(stage.blobs)
            monkeypatch.setattr("galaxylearning.nodes.assembly.form_cohort", counting)
            monkeypatch.setattr("galaxylearning.nodes.assembly.accept_updates", accepting)
            report = await Auditor(stage.site("auditor", blobs=blobs), stage.job_id).run()
            assert report.verdict == "ok"
            assert max(blobs.limits[digest] for digest in posted) < len(many) * 32
            # The cohort once, and each round's updates: those of its list, and those on the board.
            assert len(formed) == 1 + 2 * 2

    anyio.run(main)
