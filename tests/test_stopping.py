"""Ctrl-C is never lost, and acts between two steps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from medseg.stopping import Stopped, Terminated, stop_between_steps


@pytest.fixture(autouse=True)
def foreground():
    """As in a terminal: a job in the background of a script inherits an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Swallower:
    """A destructor in which an exception would be printed and lost."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


def test_ctrl_c_in_a_destructor_still_stops_the_next_step():
    with stop_between_steps() as asked:
        assert asked() is None
        Swallower()
        assert type(asked()) is Stopped and asked().exit_code == 130


def test_sigterm_is_kept_as_a_stop_of_its_own_kind():
    with stop_between_steps() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun and SLURM may both send it: the same wish
        os.kill(os.getpid(), signal.SIGINT)
        assert type(asked()) is Terminated and asked().exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_under_torchrun_no_repeat_acts_at_once(monkeypatch):
    monkeypatch.setattr("medseg.stopping.PATIENCE_S", 0.0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with stop_between_steps() as asked:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert type(asked()) is Terminated


def test_a_later_second_ctrl_c_acts_at_once_and_the_handler_is_put_back(monkeypatch):
    monkeypatch.setattr("medseg.stopping.PATIENCE_S", 0.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_between_steps():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        pytest.fail("the second Ctrl-C did nothing")
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_it_does_nothing():
    seen = []

    def work():
        with stop_between_steps() as asked:
            seen.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_an_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_between_steps() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked() is None
