"""Waits, and only waits, raise errors for signals and ended programs."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from emu.errors import ProgramError, SignalError
from emu.orchestrator import signals
from emu.orchestrator.managed_process import ManagedProcess, end
from emu.orchestrator.signals import SignalWatcher
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_raised_by_the_next_wait(signum: signal.Signals) -> None:
    with SignalWatcher() as watcher:
        os.kill(os.getpid(), signum)
        time.sleep(0)  # the handler runs here at the latest, and does not raise
        with pytest.raises(SignalError) as caught:
            watcher.wait((), TIMEOUT)
    assert caught.value.signum == signum
    assert str(caught.value) == f"ended by {signum.name}"


def test_a_signal_ends_a_wait_at_once() -> None:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    with SignalWatcher() as watcher:
        timer.start()
        with pytest.raises(SignalError):
            watcher.pause(TIMEOUT)
        timer.join()


def test_a_signal_in_another_thread_ends_a_wait_at_once() -> None:
    """The kernel may deliver it to any thread, without interrupting the main thread's poll."""

    def send() -> None:
        time.sleep(0.1)  # so that the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with SignalWatcher() as watcher:
        striker = threading.Thread(target=send)
        striker.start()
        with pytest.raises(SignalError):
            watcher.pause(TIMEOUT)
        striker.join()
        watcher.rearm()
        assert watcher.wait((), 0.05) == []


def test_after_rearming_only_a_new_signal_counts() -> None:
    with SignalWatcher() as watcher:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SignalError):
            watcher.check()
        watcher.rearm()
        watcher.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SignalError, match="SIGTERM"):
            watcher.check()


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with SignalWatcher():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_an_ignored_hang_up_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalWatcher() as watcher:
            os.kill(os.getpid(), signal.SIGHUP)
            watcher.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_readable_descriptors_are_returned() -> None:
    read_end, write_end = os.pipe()
    with SignalWatcher() as watcher:
        assert watcher.wait((read_end,), 0.01) == []
        os.write(write_end, b"x")
        assert watcher.wait((read_end,), TIMEOUT) == [read_end]
    os.close(read_end)
    os.close(write_end)


def test_a_program_that_ends_is_reported_with_its_last_line(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('first\\nthe disk is on fire\\n\\n'); sys.exit(3)"
    with SignalWatcher() as watcher:
        program = ManagedProcess("back-end blk", [sys.executable, "-c", code], log=tmp_path / "log")
        watcher.watch(program)
        try:
            with pytest.raises(ProgramError) as caught:
                watcher.pause(TIMEOUT)
            assert str(caught.value) == "back-end blk ended with status 3: the disk is on fire"
        finally:
            watcher.forget(program)
            end([program])
        watcher.check()


def test_a_wait_bounds_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one in which nothing happens, and without an end of its own."""
    monkeypatch.setattr(signals, "LOG_INTERVAL", 0.05)
    log = tmp_path / "log"
    code = "import time; print('x' * 2_000_000, flush=True); time.sleep(1000)"
    with SignalWatcher() as watcher:
        assert watcher.next_look is None
        program = ManagedProcess("back-end blk", [sys.executable, "-c", code], log=log)
        watcher.watch(program)
        try:
            wait_until(lambda: log.stat().st_size == 2_000_001, "it prints")
            assert watcher.wait((), 0.2) == []
            assert log.stat().st_blocks * 512 <= 4 * 4096
        finally:
            end([program])
