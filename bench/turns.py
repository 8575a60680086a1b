"""Programs that run in turn, a few seconds each, so that a machine whose speed drifts is as fast for one as for the other.

Each program prints one line a step. It is started, let alone until it has made WARM steps (its caches are full then, and it is compiled),
and stopped by SIGSTOP; from then on one goes on at a time. A step that a turn's end cuts is finished in its next turn, so nothing is lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from anonymous import Peak

WARM = 6


class Program:
    """One of them: `seen` steps so far, `lines` those of its lines that tell no step, `peak` its memory."""

    def __init__(self, command: Sequence[str], log: Path):
        self.log = log
        self.seen = 0
        self.lines: list[str] = []
        with log.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        self.peak = Peak(self.process.pid)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("step"):
                self.seen += 1
            else:
                self.lines.append(line)

    def signal(self, which: signal.Signals) -> None:
        """To the program and what it has started, in sessions of their own too, as torchrun's processes are."""
        for pid in family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    def warm_up(self) -> None:
        """Wait for the first steps, then stop it."""
        while self.seen < WARM:
            if self.process.poll() is not None:
                raise SystemExit(f"{' '.join(map(str, self.process.args))} ended early:\n{self.log.read_text()}")  # type: ignore[arg-type]
            time.sleep(0.05)
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> tuple[int, float]:
        """(steps finished, seconds) of one turn."""
        before, started = self.seen, time.perf_counter()
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        wall_s = time.perf_counter() - started
        time.sleep(0.1)  # for its last line to be read
        return self.seen - before, wall_s

    def end(self) -> None:
        """At once, and what it has started."""
        pids = family(self.process.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        while any(alive(pid) for pid in pids):
            time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether it is there, and no zombie (Linux)."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and its descendants (Linux)."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            for child in children.read_text().split():
                found += family(int(child))
    return found


def in_turn(commands: Mapping[str, Sequence[str]], folder: Path, turns: int, seconds: float) -> tuple[dict[str, float], dict[str, Program]]:
    """(steps a second of each, the programs, ended)."""
    programs: dict[str, Program] = {}
    steps, wall_s = dict.fromkeys(commands, 0), dict.fromkeys(commands, 0.0)
    with ExitStack() as stack:
        for name, command in commands.items():
            programs[name] = Program(command, folder / f"{name}.log")
            stack.callback(programs[name].end)
            stack.enter_context(programs[name].peak)
            programs[name].warm_up()
        for _ in range(turns):
            for name, program in programs.items():
                done, took = program.turn(seconds)
                steps[name], wall_s[name] = steps[name] + done, wall_s[name] + took
    return {name: steps[name] / wall_s[name] for name in commands}, programs
