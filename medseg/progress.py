"""Progress bars on the terminal, with the time to go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from medseg.runfolder import RunFolder


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar; call what it yields with (done, total). It appears with the first call, so that an early error stands alone."""
    progress, tasks = _progress(), list[TaskID]()

    def show(done: int, total: int) -> None:
        if not tasks:
            tasks.append(progress.add_task(description))
            progress.start()
        progress.update(tasks[0], completed=done, total=total)
        if done == total:
            progress.stop()  # at once, so that what comes next stands below

    try:
        yield show
        if tasks and not progress.finished:  # a file that turned out to be nothing to do was counted in the total
            progress.update(tasks[0], completed=progress.tasks[0].total)
    finally:
        if tasks:
            progress.stop()


class TrainingBars:
    """The bars of a training: decoding, then steps with the last and best val score."""

    def __init__(self) -> None:
        self._progress = _progress()
        self._tasks: dict[str, TaskID] = {}
        self._total_steps = 0
        self._best: float | None = None
        self._waiting = True  # for the first step
        self.run: RunFolder | None = None

    def __enter__(self) -> TrainingBars:
        return self  # the display starts with the first bar, so that an early error stands alone

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def decode(self, part: str, done: int, total: int) -> None:
        """One more image of a part is decoded."""
        self._update(f"decoding {part}", done, total)

    def start(self, run: RunFolder, total_steps: int) -> None:
        """The run folder exists and training begins."""
        self.run, self._total_steps, self._waiting, self._best = run, total_steps, True, None
        self._progress.console.print(f"run folder: {run.path}")
        self.step(0, None)
        self._describe("training, first step (compiled where that repays)")  # for a minute or more nothing else moves

    def step(self, step: int, val_score: float | None) -> None:
        """One more step is done; `val_score` (mIoU in [0, 1]) comes once an epoch."""
        if self._waiting and step > 1:
            self._progress.console.print(f"going on after step {step} of {self._total_steps}")
        if step and self._waiting:
            self._waiting = False
            self._describe("training")
        if val_score is not None:
            self._best = max(val_score, self._best or 0.0)
            self._describe(f"training, val mIoU {val_score:.3f} (best {self._best:.3f})")
        self._update("training", step, self._total_steps)

    def _describe(self, text: str) -> None:
        self._progress.update(self._tasks["training"], description=text)

    def _update(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._progress.start()
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Work of a few long steps: what is being done now, and for how long."""
    progress, tasks = Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)), list[TaskID]()

    def show(step: str) -> None:
        if not tasks:
            tasks.append(progress.add_task(step, total=None))
            progress.start()
        progress.update(tasks[0], description=step)

    try:
        yield show
    finally:
        if tasks:
            progress.stop()
