"""A worker that was taken over: it can compute, answer, and nothing else. Tried for real, on this kernel."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused, WorkerRefused
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.sandbox.caps import Caps
from galaxylearning.sandbox.filters import ALLOWED, ARCHITECTURES, worker_filter
from galaxylearning.sandbox.frames import End, Ended, Fork, Forked, Request, Work
from galaxylearning.sandbox.host import Allowed, WorkerHost, find_bubblewrap
from galaxylearning.sandbox.kernel import machine
from galaxylearning.sandbox.locked import LockedTrainer, require_locks
from galaxylearning.sandbox.locks import STOPS, Locks
from plain_terms import ACCOUNT, terms_of

ATTACKER = ("-s", "-P", str(Path(__file__).with_name("taken_over.py")))
WALLS = [None] if find_bubblewrap() is None else [None, find_bubblewrap()]
BRIEF = Allowed(seconds=20, memory_bytes=256 << 20, answer_bytes=8)
SECRET = "GALAXY_TEST_SECRET"  # the name of a variable

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or machine() not in ARCHITECTURES,
    reason="what is tried here is Linux's, on these architectures",
)


@pytest.fixture(scope="module", params=WALLS, ids=lambda wall: "plain" if wall is None else "bubblewrap")
def host(request: pytest.FixtureRequest) -> Iterator[WorkerHost]:
    os.environ[SECRET] = "passphrase"
    host = WorkerHost(ATTACKER, bubblewrap=request.param)
    yield host
    host.close()
    del os.environ[SECRET]


def attack(host: WorkerHost, name: str, argument: str = "", allowed: Allowed = BRIEF) -> str:
    """What came of an attack: the message of the error it ended in."""
    terms = argument.encode()
    work = Work(Request("measure", len(name), terms_bytes=len(terms)), graph=name.encode(), terms=terms)
    with pytest.raises(WorkerRefused) as caught:
        host.run(work, allowed)
    return str(caught.value)


def is_honest(host: WorkerHost) -> bool:
    """Whether the next worker does its work."""
    work = Work(Request("measure", 6, terms_bytes=8), graph=b"honest", terms=b"12345678")
    return host.run(work, BRIEF) == b"12345678"


def test_every_layer_holds_here_and_a_locked_process_can_do_nothing(host: WorkerHost) -> None:
    locks = host.ready.locks
    assert locks.stopped == tuple(STOPS)
    assert locks.open == ()
    assert "seccomp" in locks.layers
    assert host.ready.threads == 1
    assert is_honest(host)


@pytest.mark.parametrize("name", ["open", "open by path", "list", "stat", "append"])
def test_no_file_is_read(host: WorkerHost, name: str, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "accounts" / "me.json"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    for path in (key, tmp_path, Path("/etc/passwd"), Path("/"), Path("/dev/null"), Path(sys.executable)):
        assert "denied: Operation not permitted" in attack(host, name, str(path))


@pytest.mark.parametrize("name", ["write", "remove", "rename", "make folder", "change folder", "change mode"])
def test_no_file_is_changed(host: WorkerHost, name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("as it was")
    assert "denied: Operation not permitted" in attack(host, name, str(file))
    assert "denied: Operation not permitted" in attack(host, name, str(tmp_path / "new"))
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_text() == "as it was"


@pytest.mark.parametrize(
    "name",
    [
        "connect tcp",
        "connect outside",
        "send datagram",
        "bind tcp",
        "bind udp",
        "raw socket",
        "netlink",
        "socket pair",
        "pipe",
        "duplicate",
    ],
)
def test_nothing_is_reached(host: WorkerHost, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        assert "denied: " in attack(host, name, str(server.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_unix_socket_is_reached(host: WorkerHost, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        assert "denied: Operation not permitted" in attack(host, "connect unix", str(tmp_path / "socket"))


@pytest.mark.parametrize(
    "name",
    [
        "kill",
        "stop group",
        "pidfd",
        "trace",
        "read memory by call",
        "write memory by call",
        "read memory by file",
        "read environment",
    ],
)
def test_no_other_process_is_touched(host: WorkerHost, name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        for pid in (victim.pid, os.getpid(), host.pid, 1):
            assert "denied: Operation not permitted" in attack(host, name, str(pid))
        assert victim.poll() is None
        victim.communicate(b"\n")
    assert victim.returncode == 0
    assert is_honest(host)


@pytest.mark.parametrize(
    "name",
    [
        "fork bomb",
        "vfork",
        "clone3",
        "thread",
        "execute",
        "kill all",
        "read own files",
        "memory file",
        "io_uring",
        "bpf",
        "user fault",
        "key ring",
        "perf",
        "mount",
        "unshare",
        "set namespace",
        "chroot",
        "be root",
        "be traceable",
        "outlive the server",
        "raise limits",
        "new seccomp",
        "reboot",
        "set clock",
        "shared memory",
        "message queue",
    ],
)
def test_no_other_door_is_open(host: WorkerHost, name: str) -> None:
    told = attack(host, name)
    assert "denied: Operation not permitted" in told or (name == "thread" and "denied: " in told)


def test_the_only_descriptor_is_the_one_it_answers_on(host: WorkerHost) -> None:
    with open(os.devnull, "wb") as file:
        os.set_inheritable(file.fileno(), True)
        assert attack(host, "descriptors").endswith("failed: 1")


def test_nothing_of_the_environment_is_inherited(host: WorkerHost) -> None:
    names = attack(host, "environment")
    assert SECRET in os.environ
    assert SECRET not in names
    assert "OMP_NUM_THREADS" in names
    assert "HOME" not in names.replace(",", " ").split()


@pytest.mark.parametrize("name", ["allocate 64 GiB", "map 64 GiB"])
def test_memory_beyond_the_cap_is_not_given(host: WorkerHost, name: str) -> None:
    told = attack(host, name)
    assert ("cap maximum_memory_bytes" in told and "268,435,456 bytes" in told) or "Cannot allocate" in told
    assert "ALLOWED" not in told
    assert is_honest(host)


@pytest.mark.parametrize("name", ["spin", "wait for ever", "flood"])
def test_time_beyond_the_cap_is_not_given(host: WorkerHost, name: str) -> None:
    allowed = Allowed(seconds=0.3, memory_bytes=256 << 20, answer_bytes=8)
    told = attack(host, name, allowed=allowed)
    assert "hit the cap maximum_training_s: not done after 0.3 s" in told or name == "flood"
    assert is_honest(host)


def test_the_cap_on_time_holds_even_where_nobody_watches(host: WorkerHost) -> None:
    """The kernel ends a worker that has used its seconds of CPU."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host._ask(Fork(256 << 20, cpu_s=1), Forked, [theirs.fileno()])
        theirs.close()
        work = Work(Request("measure", 4), graph=b"spin")
        for part in work.parts():
            ours.sendall(part)
        assert ours.recv(1) == b""
        ended = host._ask(End(), Ended)
    assert isinstance(ended, Ended)
    assert ended.code == -signal.SIGXCPU
    assert is_honest(host)


@pytest.mark.parametrize(
    ("name", "said", "times"),
    [
        ("kept too long", "wanted to keep 1099511627776 bytes; at most 8 allowed", 0),
        ("kept by half", "sent 5 bytes of 8", 0),
        ("kept twice", "", 2),
    ],
)
def test_what_a_worker_keeps_is_bounded_and_only_stored(
    host: WorkerHost, name: str, said: str, times: int
) -> None:
    kept: list[bytes] = []
    allowed = replace(BRIEF, kept_bytes=8)
    work = Work(Request("measure", len(name)), graph=name.encode())
    if said:
        with pytest.raises(WorkerRefused, match=said):
            host.run(work, allowed, kept.append)
    else:
        assert host.run(work, allowed, kept.append) == bytes(8)
    assert kept == [bytes(8)] * times
    assert is_honest(host)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "ended without an answer, exit code 7"),
        ("leave", "ended without an answer, exit code 7"),
        ("half a head", "sent 7 bytes and ended"),
        ("garbage", "sent something that is no answer"),
        ("unknown status", "sent something that is no answer"),
        ("kept unasked", "sent something that is no answer"),
        ("too little", "sent 5 bytes of 8"),
        ("too much", "sent more than 8 bytes"),
        ("too long", "wanted to send 16 bytes; exactly 8 allowed"),
        ("too long by far", "wanted to send 9223372036854775808 bytes; exactly 8 allowed"),
        ("long error", "wanted to send 1073741824 bytes"),
        ("flood", "sent something that is no answer"),
        ("crash", "crashed with SIGSEGV"),
    ],
)
def test_anything_but_the_expected_answer_is_refused(host: WorkerHost, name: str, said: str) -> None:
    assert said in attack(host, name)
    assert is_honest(host)


def test_a_worker_ends_when_its_node_is_gone(host: WorkerHost) -> None:
    """The channel is what both hang on: a server whose node closed it ends its worker and itself."""
    other = WorkerHost(ATTACKER)
    failures: list[str] = []
    spinning = threading.Thread(target=lambda: failures.append(attack(other, "spin")))
    spinning.start()
    time.sleep(0.2)
    other.close()
    spinning.join(20)
    assert not spinning.is_alive()
    assert "is gone" in failures[0]
    with pytest.raises(ProcessLookupError):
        os.kill(other.pid, 0)
    assert is_honest(host)


def test_a_server_that_was_killed_takes_its_worker_with_it() -> None:
    other = WorkerHost(ATTACKER)
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            forked = other._ask(Fork(256 << 20, cpu_s=60), Forked, [theirs.fileno()])
            theirs.close()
            assert isinstance(forked, Forked)
            for part in Work(Request("measure", 4), graph=b"spin").parts():
                ours.sendall(part)
            os.kill(other.pid, signal.SIGKILL)
            # The worker holds the other end for as long as it lives; it may not have read everything.
            ours.settimeout(20)
            with suppress(ConnectionResetError):
                assert ours.recv(1) == b""
    finally:
        other.close()


def test_whoever_stops_waiting_ends_the_worker_and_may_go_on() -> None:
    async def stopped() -> None:
        async with LockedTrainer(Caps, program=ATTACKER) as trainer:
            first = (await trainer.ready()).locks
            with anyio.move_on_after(0.2) as scope:
                await trainer.measure(b"spin", batch_size=1)
            assert scope.cancelled_caught
            assert (await trainer.measure(b"three parameters", batch_size=1)).cost.parameters == 3
            assert (await trainer.ready()).locks == first

    anyio.run(stopped)


def test_a_worker_cannot_send_more_than_training_could() -> None:
    """Whoever took it over chooses the integers, but neither how many nor how long they are."""
    plan = Plan(rounds=1, steps=1, batch_size=2)
    levels = 2 ** (plan.bits - 1) - 1
    terms = terms_of(plan)
    rows = Rows(np.zeros((2, 1), np.float32), np.zeros(2, np.int64))

    async def sent(*integers: int) -> NDArray[np.int32]:
        state = struct.pack(f"<{len(integers)}i", *integers)
        graph = b"three parameters"
        return (await trainer.train(graph, state, terms, rows, round_index=0, data_owner=ACCOUNT))[0]

    async def attacks() -> None:
        assert list(await sent(levels, 0, 0)) == [levels, 0, 0]
        for longer in ((levels + 1, 0, 0), (levels, levels, 0), (0, 0, -(2**31))):
            with pytest.raises(WorkerRefused, match="sent what training cannot give"):
                await sent(*longer)
        for count in (0, 2, 4):
            with pytest.raises(WorkerRefused, match="exactly 12 allowed"):
                await sent(*[0] * count)
        with pytest.raises(WorkerRefused, match="below zero"):
            await trainer.measure(b"fewer than none", batch_size=1)

    trainer = LockedTrainer(Caps, program=ATTACKER)
    try:
        anyio.run(attacks)
    finally:
        trainer.close()


def test_a_program_that_cannot_start_is_named() -> None:
    with pytest.raises(ConfigRefused, match=r"locked worker: could not be started: .*No module named"):
        WorkerHost(("-m", "galaxylearning.sandbox.no_such_module"))


def test_without_bubblewrap_that_works_the_other_layers_are_used() -> None:
    host = WorkerHost(ATTACKER, bubblewrap="/bin/false")
    try:
        assert "could not be started" in host.ready.locks.missing["bubblewrap"]
        assert host.ready.locks.open == ()
    finally:
        host.close()


def test_a_machine_that_cannot_lock_is_refused_unless_the_policy_says_otherwise() -> None:
    bare = Locks({}, {"landlock": "no such thing", "seccomp": "not here"}, ("files",))
    with pytest.raises(ConfigRefused) as caught:
        require_locks(bare, Caps(sandbox="required"))
    told = str(caught.value)
    assert "network" in told
    assert "processes" in told
    assert "files (" not in told
    assert "landlock: no such thing; seccomp: not here" in told
    assert "'best-effort'" in told
    require_locks(bare, Caps(sandbox="best-effort"))
    require_locks(Locks({}, {}, tuple(STOPS)), Caps(sandbox="required"))


def test_a_machine_without_locks_is_found_out_and_its_caps_still_hold() -> None:
    caps = Caps(sandbox="required")

    async def refused_then_allowed() -> None:
        nonlocal caps
        async with LockedTrainer(lambda: caps, program=(*ATTACKER, "unlocked"), bubblewrap=None) as trainer:
            with pytest.raises(ConfigRefused, match=r"policy\.sandbox: 'required', but nothing here keeps"):
                await trainer.measure(b"three parameters", batch_size=1)
            caps = Caps(sandbox="best-effort", training_s=1)
            locks = (await trainer.ready()).locks
            assert locks.open == tuple(STOPS)
            assert {"landlock", "seccomp", "namespaces", "capabilities"} <= set(locks.missing)
            assert (await trainer.measure(b"three parameters", batch_size=1)).cost.parameters == 3
            with pytest.raises(WorkerRefused, match="not done after 1 s"):
                await trainer.measure(b"spin", batch_size=1)
            with pytest.raises(WorkerRefused, match="maximum_memory_bytes"):
                await trainer.measure(b"allocate 64 GiB", batch_size=1)

    anyio.run(refused_then_allowed)


def test_a_lock_that_held_when_it_was_tried_and_does_not_now_ends_the_worker() -> None:
    host = WorkerHost((*ATTACKER, "losing"))
    try:
        assert host.ready.locks.open == ()
        assert "could not be locked: " in attack(host, "honest", "12345678")
    finally:
        host.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_filter_lets_pass_what_is_listed_and_nothing_else(architecture: str) -> None:
    """The program run by an interpreter of our own, over every number there is and the doors beside it."""
    listed = {numbers[ARCHITECTURES.index(architecture)] for numbers in ALLOWED.values()}
    code = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[architecture]
    program = worker_filter(architecture)
    for number in range(1024):
        assert judge(program, number, code) == (0x7FFF0000 if number in listed else 0x00050001)
    assert judge(program, 0x40000000, code) == 0x00050001  # x32
    assert judge(program, min(listed), 0x40000003) == 0x80000000  # i386: the process ends
    with pytest.raises(ValueError, match="not in tuple"):
        worker_filter("m68k")


def judge(program: bytes, number: int, architecture: int) -> int:
    """What a BPF program says of a system call; knows the three instructions that ours are made of."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    held, at = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            held = {0: number, 4: architecture}[value]
        elif code == 0x15:
            at += if_true if held == value else if_false
        else:
            assert code == 0x06
            return int(value)
