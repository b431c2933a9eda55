"""`Workers`: processes that train networks side by side.

They take calls, and hand their results over as they come, like `hwnas.alone.Alone`, which has no processes. A worker is
a program of its own, ``python -m hwnas.workers``, and not a fork (libraries that have threads do not survive one) nor
one of `multiprocessing` (which would run the user's script again).
"""

import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from hwnas.call import Call
from hwnas.database import plain_errors
from hwnas.deaths import Deaths
from hwnas.executor import Executor
from spaces.errors import HwnasError, TrainingError

#: File in which workers find the executor and its images, until all have opened it.
HANDED_OVER = "workers.partial"

#: Linux: the signal that a process gets when its parent dies (prctl(2)).
_DEATH_SIGNAL = 1


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    connection: Connection
    call: Call | None = field(default=None)

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class Workers:
    """Runs calls in processes of their own.

    A call whose process dies while others run is tried again when no other does, as the memory may do for one; if its
    process then dies too, there is its `instead`. The process is replaced.

    Args:
        executor: The first argument of all work; each process has a copy, but for the images, which lie in a file.
        count: How many.
        threads: Of each.
        folder: For that file, which a sweep of the store takes away should this process be killed meanwhile.
        deaths: See `Alone`.

    Attributes:
        meanwhile: See `Alone`.
    """

    meanwhile = True

    def __init__(self, executor: Executor, count: int, threads: int, folder: Path, deaths: Deaths) -> None:
        self.executor = executor
        self.threads = threads
        self.file = folder / HANDED_OVER
        self.deaths = deaths
        self._workers: list[_Worker] = []
        self._left_out: list[tuple[Call, str]] = []  # and why
        self._again: list[Call] = []  # to be tried alone; the first of them may run
        try:
            self._start(count)
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """How many calls can be submitted."""
        return 0 if self._again else len(self._workers) - len(self._busy)

    @property
    def running(self) -> list[Call]:
        """Calls without a result."""
        waiting = [call for call in self._again if call not in self._busy]
        return [*self._busy, *waiting, *(call for call, _ in self._left_out)]

    @property
    def _busy(self) -> list[Call]:
        return [worker.call for worker in self._workers if worker.call is not None]

    def submit(self, call: Call) -> None:
        """Hand a call to a process that has none."""
        if reason := self.deaths.reason(call.name):
            self._left_out.append((call, reason))
            return
        worker = next(worker for worker in self._workers if worker.call is None)
        if worker.process.poll() is not None:  # it died while it had nothing to do, which is no fault of the call's
            worker = self._replace(worker)
        self.deaths.begin(call.name)
        worker.call = call
        with suppress(OSError):  # it is dead, and found so by `next`
            _send(worker.connection, (call.work, call.arguments))

    def next(self) -> tuple[Call, Any]:
        """Wait for a result; the call and its result.

        Raises:
            Exception: What the work raised, with the worker's traceback in a note.
        """
        if self._left_out:
            left_out, reason = self._left_out.pop()
            return left_out, left_out.instead(reason)
        if self._again and not self._busy:
            self.submit(self._again[0])
        waiting = {worker.connection: worker for worker in self._workers if worker.call is not None}
        worker = waiting[wait(list(waiting))[0]]  # type: ignore[index]
        call, worker.call = worker.call, None
        assert call is not None
        try:
            made, error, text = _receive(worker.connection)
        except (EOFError, OSError):
            self.deaths.end(call.name)
            self._replace(worker)
            if self._busy:
                self._again.append(call)
                return self.next()
            signal_ = -(worker.process.returncode or 0)
            how = signal.Signals(signal_).name if signal_ > 0 else f"exit {worker.process.returncode}"
            made, error = call.instead(f"its process died ({how}); it may be too large for the memory"), None
        else:
            self.deaths.end(call.name)
        if call in self._again:
            self._again.remove(call)
        if error is not None:
            if not isinstance(error, HwnasError):
                self.deaths.count(call.name)
            error.add_note(text)
            raise error
        return call, made

    def _replace(self, worker: _Worker) -> _Worker:
        worker.stop()
        self._workers.remove(worker)
        self._start(1)
        return self._workers[-1]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still meanwhile: for measurements of time."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop all processes, whatever they do."""
        for worker in self._workers:
            worker.stop()
            if worker.call is not None:
                self.deaths.end(worker.call.name)
        self._workers.clear()

    def _start(self, count: int) -> None:
        try:
            with plain_errors(self.file.parent), self.file.open("wb") as file:
                torch.save(self.executor, file)
            new = [_started(self.file, self.threads) for _ in range(count)]
            self._workers += new
            for worker in new:
                _receive(worker.connection)  # it has opened the file
        except EOFError as error:
            raise TrainingError(
                f"a process that was to train networks died as it began, the memory may be too small for {count} of "
                "them; set fewer by search.workers"
            ) from error
        finally:
            self.file.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.process.send_signal(number)


def _started(file: Path, threads: int) -> _Worker:
    own, other = socket.socketpair()
    with other:
        command = [sys.executable, "-m", "hwnas.workers", str(other.fileno()), str(file), str(threads)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, pass_fds=[other.fileno()], env=environment, stdin=subprocess.DEVNULL)
    return _Worker(process, Connection(own.detach()))


def _send(connection: Connection, message: Any) -> None:
    # Not by `send`, which hands tensors over in shared memory; of that a container has little.
    connection.send_bytes(pickle.dumps(message))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def serve(connection: Connection, file: Path, threads: int) -> None:
    """Be a worker until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which then stops this process
    if sys.platform == "linux":  # and nobody else would, if it is killed itself
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    torch.set_num_threads(threads)
    executor = torch.load(file, weights_only=False, mmap=True)
    _send(connection, None)
    with suppress(EOFError, OSError):
        while True:
            work, arguments = _receive(connection)
            made, error, text = None, None, ""
            try:
                made = work(executor, *arguments)
            except Exception as raised:  # the study decides what becomes of it
                error, text = raised, f"in a worker:\n{traceback.format_exc()}"
            try:
                _send(connection, (made, error, text))
            except (pickle.PicklingError, AttributeError, TypeError) as failure:  # it cannot be sent
                _send(connection, (None, RuntimeError(str(failure)), text))


if __name__ == "__main__":
    descriptor, path, count = sys.argv[1:]
    serve(Connection(int(descriptor)), Path(path), int(count))
