"""`Workers`: processes that train networks side by side; `Alone`: the same in this process, one after the other.

Both take calls of the form ``work(executor, *arguments)``, such as `Executor.run`, and hand their results over as they
come. A worker is a program of its own, ``python -m hwnas.workers``, and not a fork (libraries that have threads do not
survive one) nor one of `multiprocessing` (which would run the user's script again).
"""

import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from hwnas.deaths import surviving
from hwnas.executor import Executor
from hwnas.store import Store
from spaces.errors import TrainingError

#: File in which workers find the executor and its images, until all have opened it.
HANDED_OVER = "workers.partial"

#: Linux: the signal that a process gets when its parent dies (prctl(2)).
_DEATH_SIGNAL = 1


@dataclass(frozen=True)
class Call:
    """Work to be done.

    Attributes:
        name: The same whenever the study asks for it.
        work: A function that can be imported, or an unbound method; its first argument is the executor.
        arguments: The others.
        instead: Makes the result of a reason, if the process dies in the work.
        key: Whatever the caller knows it by.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    instead: Callable[[str], Any]
    key: Any = None


class Alone:
    """Runs calls in this process.

    Args:
        executor: The first argument of all work.
        store: Where it is kept how often the process died in what.

    Attributes:
        meanwhile: Whether there is something to be done while calls run.
    """

    meanwhile = False

    def __init__(self, executor: Executor, store: Store) -> None:
        self.executor = executor
        self.store = store
        self.running: list[Call] = []

    @property
    def free(self) -> int:
        """How many calls can be submitted."""
        return 1 - len(self.running)

    def submit(self, call: Call) -> None:
        """Take a call on."""
        self.running.append(call)

    def next(self) -> tuple[Call, Any]:
        """Run it; the call and its result."""
        call = self.running.pop()
        work = partial(call.work, self.executor, *call.arguments)
        return call, surviving(self.store, call.name, work, call.instead)


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
    """Runs calls in processes of their own. One that dies costs its call, and is replaced.

    Args:
        executor: The first argument of all work; each process has a copy, but for the images, which lie in a file.
        count: How many.
        threads: Of each.
        folder: For that file, which a sweep of the store takes away should this process be killed meanwhile.

    Attributes:
        meanwhile: See `Alone`.
    """

    meanwhile = True

    def __init__(self, executor: Executor, count: int, threads: int, folder: Path) -> None:
        self.executor = executor
        self.threads = threads
        self.file = folder / HANDED_OVER
        self._workers: list[_Worker] = []
        try:
            self._start(count)
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """How many calls can be submitted."""
        return len(self._workers) - len(self.running)

    @property
    def running(self) -> list[Call]:
        """Calls without a result."""
        return [worker.call for worker in self._workers if worker.call is not None]

    def submit(self, call: Call) -> None:
        """Hand a call to a process that has none."""
        worker = next(worker for worker in self._workers if worker.call is None)
        worker.call = call
        with suppress(OSError):  # it is dead, and found so by `next`
            _send(worker.connection, (call.work, call.arguments))

    def next(self) -> tuple[Call, Any]:
        """Wait for a result; the call and its result.

        Raises:
            Exception: What the work raised, with the worker's traceback in a note.
        """
        waiting = {worker.connection: worker for worker in self._workers if worker.call is not None}
        worker = waiting[wait(list(waiting))[0]]  # type: ignore[index]
        call, worker.call = worker.call, None
        assert call is not None
        try:
            made, error, text = _receive(worker.connection)
        except (EOFError, OSError):
            worker.stop()
            self._workers.remove(worker)
            self._start(1)
            signal_ = -(worker.process.returncode or 0)
            how = signal.Signals(signal_).name if signal_ > 0 else f"exit {worker.process.returncode}"
            return call, call.instead(f"its process died ({how}); it may be too large for the memory")
        if error is not None:
            error.add_note(text)
            raise error
        return call, made

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
        self._workers.clear()

    def _start(self, count: int) -> None:
        torch.save(self.executor, self.file)
        try:
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
            self.file.unlink()

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
