"""What a node remembers of the chain, which is nothing of jobs that are over, and how soon it looks again."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from galaxylearning.bootstrap import on_a_thread
from galaxylearning.errors import (
    FinalityBroken,
    GalaxyError,
    JobRefused,
    LedgerError,
    LedgerUnreachable,
    MessageRefused,
    PhaseError,
    StorageError,
    TransactionReverted,
)
from galaxylearning.messages.records import CohortList
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView, ChainWatch
from galaxylearning.nodes.site import SOONEST, Docket, Pace, at_once, keep_going
from galaxylearning.ports import Block, ChainLog, Event
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import Address, Digest

OWNERS = tuple(Address(f"0x{number:040x}") for number in (1, 2))
SETS = tuple(Digest(bytes([number]) * 32) for number in (1, 2))


class Log:
    """A ledger that is nothing but its log."""

    def __init__(self) -> None:
        self.events_so_far: list[Event] = []
        self.provisional = 0
        self.most = 1_000

    def add(self, contract: Any, name: str, **arguments: Any) -> None:
        number = len(self.events_so_far) + 1
        block = Block(number, bytes([number]) * 32)
        self.events_so_far.append(Event(contract, name, arguments, block, 1_000 + number, 0, bytes(32)))

    def register(self, place: int) -> None:
        self.add("registry", "DatasetRegistered", datasetId=SETS[place], dataOwner=OWNERS[place])

    def post(self, job_id: int) -> None:
        self.add(
            "jobs",
            "JobPosted",
            jobId=job_id,
            requester=OWNERS[0],
            termsDigest=bytes([job_id]) * 32,
            bounty=1,
            fees=0,
        )

    def anchor(self, job_id: int) -> None:
        self.add("jobs", "CohortAnchored", jobId=job_id, root=bytes(32), size=1, directHead=bytes(32))

    async def follow(self, since_block: int) -> ChainLog:
        """The last ``self.provisional`` events are not final yet; ``self.most`` are told at a time."""
        last = len(self.events_so_far) - self.provisional
        new = [event for event in self.events_so_far if event.block.number >= since_block]
        final = [event for event in new if event.block.number <= last]
        if len(final) > self.most:
            final = final[: self.most]
            return ChainLog(final, (), final[-1].block, Block(last, bytes(32)), is_whole=False)
        ahead = [event for event in new if event.block.number > last]
        return ChainLog(final, ahead, Block(last, bytes(32)), Block(len(self.events_so_far), bytes(32)))

    async def now(self) -> int:
        return 2_000


def seen(log: Log, view: ChainView | None = None) -> ChainView:
    view = view or ChainView(log, MemoryBlobStore())  # type: ignore[arg-type]
    anyio.run(view.refresh)
    return view


def test_of_a_forgotten_job_nothing_is_left_and_nothing_comes_back() -> None:
    log = Log()
    log.register(0)
    log.post(1)
    log.post(2)
    log.anchor(1)
    view = seen(log)
    assert list(view.job_ids) == [1, 2]
    view.forget(1)
    log.add("jobs", "SeatTaken", jobId=1, evaluator=OWNERS[0])
    log.add("jobs", "SeatTaken", jobId=2, evaluator=OWNERS[0])
    seen(log, view)
    assert list(view.job_ids) == [2]
    assert view.events_of(1) == ()
    assert len(view.events_of(2)) == 2
    assert [event.arguments.get("jobId") for event in view.log] == [None, 2, 2]
    with pytest.raises(MessageRefused, match="no job 1"):
        anyio.run(view.terms, 1)


def test_which_data_sets_were_active_at_an_anchor_does_not_depend_on_forgotten_jobs() -> None:
    log = Log()
    log.register(0)
    log.post(1)
    log.post(2)
    log.anchor(1)
    log.register(1)
    log.anchor(2)
    log.add("registry", "DatasetRevoked", datasetId=SETS[0], dataOwner=OWNERS[0])
    view = seen(log)
    assert view.datasets_at_anchor(1) == {SETS[0]: OWNERS[0]}
    view.forget(1)
    assert view.datasets_at_anchor(2) == {SETS[0]: OWNERS[0], SETS[1]: OWNERS[1]}
    assert view.datasets == {SETS[1]: OWNERS[1]}


def test_provisional_events_of_a_forgotten_job_do_not_bring_it_back() -> None:
    log = Log()
    log.post(1)
    view = seen(log)
    view.forget(1)
    log.post(2)
    log.add("jobs", "SeatTaken", jobId=1, evaluator=OWNERS[0])
    log.provisional = 2
    seen(log, view)
    assert list(view.job_ids) == []
    assert list(view.head_job_ids) == [2]
    assert view.head_events_of(1) == ()


def test_a_log_told_in_parts_is_read_to_its_end() -> None:
    log = Log()
    log.most = 2
    for job_id in range(1, 8):
        log.post(job_id)
    log.provisional = 1
    view = seen(log)
    assert list(view.job_ids) == [1, 2, 3, 4, 5, 6]
    assert list(view.head_job_ids) == [1, 2, 3, 4, 5, 6, 7]
    assert (view.final_block.number, view.is_news) == (6, True)
    assert not seen(log, view).is_news


def test_who_looks_at_one_job_keeps_nothing_of_others() -> None:
    log = Log()
    log.register(0)
    for job_id in (1, 2, 3):
        log.post(job_id)
    log.provisional = 1
    view = ChainView(log, MemoryBlobStore(), only=2)  # type: ignore[arg-type]
    seen(log, view)
    assert list(view.head_job_ids) == [2]
    assert [event.arguments.get("jobId") for event in view.log] == [None, 2]


def test_stakes_are_nobodys_business_for_long() -> None:
    log = Log()
    log.add("registry", "StakeLocked", evaluator=OWNERS[0], amount=1)
    log.register(0)
    view = seen(log)
    assert [event.name for event in view.log] == ["DatasetRegistered"]


# ---- which jobs it serves


def test_a_job_is_served_until_it_is_over_or_given_up_and_what_may_pass_ends_none() -> None:
    passing, refused = LedgerUnreachable("no answer"), JobRefused("not like this")
    reverted = TransactionReverted("not now", reason="WrongPhase")
    script: dict[int, list[bool | GalaxyError]] = {
        1: [LedgerError("no coins"), True],
        2: [passing, StorageError("no room"), True],
        3: [reverted, refused],
        4: [True],
    }
    told: list[tuple[int, GalaxyError]] = []
    finished: list[int] = []
    pulses: list[GalaxyError | None] = []

    async def serve(job_id: int) -> bool:
        done = script[job_id].pop(0)
        if isinstance(done, GalaxyError):
            raise done
        return done

    def give_up(job_id: int, error: GalaxyError) -> bool:
        told.append((job_id, error))
        return len(told) == 2

    site: Any = SimpleNamespace(pulse=pulses.append)
    docket = Docket(site, (1, 2, 3), serve=serve, give_up=give_up, finish=finished.append)

    async def looks() -> list[bool]:
        return [await docket.turn((1, 2, 3, 4)) for _ in range(3)]

    assert anyio.run(looks) == [False, False, True]
    assert finished == [1, 3, 2]
    assert told == [(3, reverted), (3, refused)]
    assert [str(error) for error in pulses] == ["no coins", "no answer", "no room"]
    assert script[4] == [True]
    everybody = Docket(site, None, serve=serve, give_up=give_up, finish=finished.append)
    assert anyio.run(everybody.turn, (4,)) is False
    assert finished == [1, 3, 2, 4]


def test_a_node_whose_chain_was_rewritten_serves_no_further_job() -> None:
    async def serve(_job_id: int) -> bool:
        raise FinalityBroken("another history")

    def never(*_given: object) -> bool:
        raise AssertionError("nothing is given up")

    docket = Docket(SimpleNamespace(), None, serve=serve, give_up=never, finish=never)  # type: ignore[arg-type]
    with pytest.raises(FinalityBroken):
        anyio.run(docket.turn, (1, 2))


# ---- how soon it looks again


def test_a_node_looks_again_soon_after_something_new_and_then_ever_later() -> None:
    pauses: list[float] = []
    seen_at, looks = {4, 6}, 0
    pace = Pace()

    async def turn() -> bool:
        nonlocal looks
        looks += 1
        if looks in seen_at:
            pace.stir()
        return looks == 12

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    site: Any = SimpleNamespace(
        poll_s=8.0, pace=pace, pulse=lambda _error: None, clock=SimpleNamespace(sleep=sleep)
    )
    anyio.run(keep_going, site, turn)
    assert SOONEST == 1 / 8
    assert pauses == [8, 8, 8, 1, 2, 1, 2, 4, 8, 8, 8]


def test_events_are_news_once_be_they_final_or_provisional() -> None:
    log, pace = Log(), Pace()
    site: Any = SimpleNamespace(pace=pace, report=lambda _progress: None)
    watch, view = ChainWatch(site), ChainView(log, MemoryBlobStore())  # type: ignore[arg-type]

    def pause() -> float:
        watch.tell(seen(log, view))
        return pace.pause_s(1)

    assert pause() == 1
    log.post(1)
    log.provisional = 1
    assert [pause(), pause()] == [SOONEST, 2 * SOONEST]
    log.provisional = 0
    assert [pause(), pause(), pause(), pause()] == [SOONEST, 2 * SOONEST, 4 * SOONEST, 1]


def test_a_record_is_news_to_whoever_reads_it_and_only_once() -> None:
    pace, blobs = Pace(), MemoryBlobStore()
    ledger = SimpleNamespace(chain_id=1, address_of=lambda _contract: OWNERS[0])
    board = Board(SimpleNamespace(ledger=ledger, blobs=blobs, pace=pace), 1)  # type: ignore[arg-type]

    async def scenario() -> None:
        assert await board.read("cohort", CohortList) == {}
        assert pace.pause_s(1) == 1
        await board.post("cohort", CohortList(job_id=1, enrolments=(), direct=()))
        await board.put("cohort", b"not a record")
        assert pace.pause_s(1) == 1
        assert len(await board.read("cohort", CohortList)) == 1
        assert pace.pause_s(1) == SOONEST
        assert len(await board.read("cohort", CohortList)) == 1
        assert pace.pause_s(1) == 2 * SOONEST

    anyio.run(scenario)


def test_work_aside_is_done_on_another_thread_and_its_errors_come_back() -> None:
    threads: list[int] = []

    def fail() -> None:
        raise PhaseError("too late")

    async def scenario() -> None:
        await on_a_thread(lambda: threads.append(threading.get_ident()))
        await at_once(lambda: threads.append(threading.get_ident()))
        for aside in (on_a_thread, at_once):
            with pytest.raises(PhaseError, match="too late"):
                await aside(fail)

    anyio.run(scenario)
    assert threads[0] != threads[1] == threading.get_ident()
