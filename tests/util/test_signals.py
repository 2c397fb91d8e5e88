"""Signals are deferred, and none is lost."""

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from lina_lab.util.signals import (
    STOPS,
    defer_signals,
    dropped_stops_come_again,
    signals_deferred_for,
    stop_if_asked,
    stop_or,
    stops_as_exceptions,
)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_one_comes_when_the_block_has_ended(number: signal.Signals, error: type[BaseException]) -> None:
    before, done = [signal.getsignal(each) for each in STOPS], []

    @stops_as_exceptions()
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


class Dying:
    """Sends a signal from its destructor, from which Python lets no exception out."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        send(self.number)
        time.sleep(0)


BOTH = pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["int", "term"]
)


@BOTH
def test_one_within_a_destructor_comes_again(number: signal.Signals, error: type[BaseException]) -> None:
    before = [signal.getsignal(each) for each in STOPS]

    @stops_as_exceptions()
    def block() -> None:
        Dying(number)
        time.sleep(30)

    start = time.monotonic()
    with pytest.raises(error):
        block()
    assert time.monotonic() - start < 20
    assert [signal.getsignal(each) for each in STOPS] == before


def test_ctrl_c_within_a_destructor_comes_again_to_any_command() -> None:
    @dropped_stops_come_again()
    def block() -> None:
        Dying(signal.SIGINT)
        time.sleep(30)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        block()
    assert time.monotonic() - start < 20


def test_other_errors_of_destructors_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise SystemExit(3)

    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: reported.append(dropped.exc_value.code))
    with dropped_stops_come_again():
        Broken()
    assert reported == [3]


@BOTH
def test_one_that_is_swallowed_is_honoured_at_the_next_safe_point(
    number: signal.Signals, error: type[BaseException]
) -> None:
    done = []

    @stops_as_exceptions()
    def block() -> None:
        with suppress(BaseException):
            send(number)
        done.append("swallowed")
        stop_if_asked()
        done.append("went on")

    with pytest.raises(error):
        block()
    assert done == ["swallowed"]
    stop_if_asked()


@BOTH
def test_one_that_is_swallowed_is_honoured_at_the_latest_at_the_end(
    number: signal.Signals, error: type[BaseException]
) -> None:
    @stops_as_exceptions()
    def block() -> None:
        with suppress(BaseException):
            send(number)

    with pytest.raises(error):
        block()


def test_an_error_that_came_of_a_signal_is_the_stop() -> None:
    @stops_as_exceptions()
    def block() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            raise RuntimeError("a data worker is gone")

    with pytest.raises(SystemExit) as caught:
        block()
    assert caught.value.code == 143
    assert isinstance(caught.value.__context__, RuntimeError)
    error = RuntimeError("of its own")
    assert stop_or(error) is error
