"""One driver at a time works on a run: a file says who, and a second one is refused.

On one host the kernel's lock decides, and a kill frees it. Hosts that share a disk may not see each
other's locks: there the file has a pulse, and who finds it still holds the run. Only changes of the
file are looked at, so the clocks of the hosts may differ.
"""

import _thread
import contextlib
import errno
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gmsearch.errors import SettingsError

BEAT = 5.0  # seconds from one pulse to the next
SILENCE = 4  # beats without a pulse, after which a driver on another host is gone


@contextlib.contextmanager
def locked(file: Path, subject: Path) -> Iterator[None]:
    """Holds `file` for this process. `subject` is what a second driver is told that it may not
    have.

    Raises SettingsError that names the process and host that hold it.
    """
    file.touch()
    with file.open("r+") as opened:
        seen = _lock(opened, subject)
        _wait_for_silence(file, subject, seen)
        holder = _Holder(file, opened, subject)
        holder.write()
        holder.start()
        try:
            yield
        finally:
            holder.stop()


def _lock(opened: IO[str], subject: Path) -> bool:
    """Whether the kernel locks files here. Raises SettingsError where another process has it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return False  # a disk without locks
        opened.seek(0)
        raise _refusal(opened.read(), subject) from None
    return True


def _wait_for_silence(file: Path, subject: Path, locks_work: bool) -> None:
    """Returns once nobody holds the file, which a driver that was killed does not tell."""
    told = first = _read(file)
    if not told or (locks_work and told.split()[1:2] == [socket.gethostname()]):
        return
    deadline = time.monotonic() + SILENCE * BEAT
    while told == first and time.monotonic() < deadline:
        time.sleep(BEAT / 5)
        told = _read(file)
    if told and told != first:
        raise _refusal(told, subject)


def _read(file: Path) -> str:
    # Opened anew: a network disk looks for changes of others when a file is opened.
    return file.read_text(encoding="utf-8", errors="replace")


def _refusal(told: str, subject: Path) -> SettingsError:
    process, host, *_ = [*told.split(), "?", "?"]
    return SettingsError(
        f"{subject}: another gmsearch (process {process} on {host}) works on this run; "
        "wait for it or stop it"
    )


class _Holder(threading.Thread):
    """Keeps the pulse, and stops this process where another has taken the run, as one may that
    thought it dead while it slept.
    """

    def __init__(self, file: Path, opened: IO[str], subject: Path) -> None:
        super().__init__(daemon=True)
        self._file = file
        self._opened = opened
        self._subject = subject
        self._beats = 0
        self._told = ""
        self._over = threading.Event()

    def write(self) -> None:
        """Says who holds the file, differently each time. What was there is written over, so that
        no reader finds the file empty, as it is where nobody holds it.
        """
        self._beats += 1
        self._told = f"{os.getpid()} {socket.gethostname()} {self._beats}"
        self._opened.seek(0)
        self._opened.write(self._told)
        self._opened.truncate()
        os.fsync(self._opened.fileno())

    def run(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that is full for a while
                told = _read(self._file)
                if told.split()[:2] not in ([], self._told.split()[:2]):
                    print(f"gmsearch: {_refusal(told, self._subject)}", file=sys.stderr)
                    _thread.interrupt_main()
                    return
                self.write()

    def stop(self) -> None:
        self._over.set()
        self.join()
        with contextlib.suppress(OSError):
            if _read(self._file) == self._told:
                self._opened.seek(0)
                self._opened.truncate()
