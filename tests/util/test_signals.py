"""Signals are deferred, and none is lost."""

import os
import signal
import threading
from contextlib import ExitStack

import pytest

from lina_lab.util.signals import STOPS, defer_signals, signals_deferred_for, sigterm_as_exit


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_one_comes_when_the_block_has_ended(number: signal.Signals, error: type[BaseException]) -> None:
    before, done = [signal.getsignal(each) for each in STOPS], []

    @sigterm_as_exit()
    def block() -> None:
        try:
            with defer_signals():
                send(number)
                done.append("the rest")
        finally:
            done.append("then")

    with pytest.raises(error):
        block()
    assert done == ["the rest", "then"]
    assert [signal.getsignal(each) for each in STOPS] == before


def sent_twice(depth: int) -> list[str]:
    """What is done within so many blocks when two signals come."""
    done = []

    def block() -> None:
        with ExitStack() as blocks:
            for _ in range(depth):
                blocks.enter_context(defer_signals())
            send(signal.SIGINT)
            done.append("first")
            send(signal.SIGINT)
            done.append("second")

    before = [signal.getsignal(each) for each in STOPS]
    with pytest.raises(KeyboardInterrupt):
        block()
    assert [signal.getsignal(each) for each in STOPS] == before
    return done


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_two_at_once_wait_as_one(depth: int) -> None:
    """A terminal's Ctrl-C reaches a worker directly, and again from its pool."""
    assert sent_twice(depth) == ["first", "second"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_one_that_comes_again_later_does_not_wait(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 3.1, 3.2])
    monkeypatch.setattr("lina_lab.util.signals.time.monotonic", lambda: next(clock))
    assert sent_twice(depth) == ["first"]


def test_a_block_that_has_ended_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0])
    monkeypatch.setattr("lina_lab.util.signals.time.monotonic", lambda: next(clock))
    done = []

    @defer_signals()
    def block() -> None:
        send(signal.SIGINT)
        done.append("the rest")

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            block()
    assert done == ["the rest", "the rest"]


def test_blocks_in_blocks_wait_for_the_outermost() -> None:
    done = []

    @defer_signals()
    def block() -> None:
        with defer_signals():
            send(signal.SIGINT)
        done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["outer"]


def test_an_error_of_the_block_is_kept_as_the_context() -> None:
    @defer_signals()
    def block() -> None:
        send(signal.SIGINT)
        raise ValueError("within")

    with pytest.raises(KeyboardInterrupt) as caught:
        block()
    assert isinstance(caught.value.__context__, ValueError)


def test_what_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with defer_signals():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_signals_to_hold() -> None:
    handlers = []

    def look() -> None:
        with defer_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize(
    ("uri", "waits"), [("sqlite:///mlflow.db", True), ("http://host:5000", False), ("databricks", False)]
)
def test_a_server_is_not_waited_for(uri: str, waits: bool) -> None:
    done = []

    def block() -> None:
        with signals_deferred_for(uri):
            send(signal.SIGINT)
            done.append("the rest")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert bool(done) == waits
