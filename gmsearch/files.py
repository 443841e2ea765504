"""Writing files that are whole or not there, and telling files apart."""

import hashlib
import os
import shlex
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a kill, never meets half of it."""
    with replacing(path) as file:
        file.write(as_bytes(text))


def as_bytes(text: str) -> bytes:
    """Text in UTF-8; names of files that are no UTF-8 come out as they are on the disk."""
    return text.encode("utf-8", errors="surrogateescape")


def as_word(path: Path) -> str:
    """A path as one word of a line to type, whatever characters it has."""
    return shlex.quote(str(path))


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` once it is whole.

    A `durable` one comes to disk before its name does, so that a power cut leaves no part either.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # of a write: Python does not say which file it was
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a file's contents."""
    return sha256_of(path)[:12]
