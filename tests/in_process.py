"""The command within the process of the tests, which saves the imports of one of its own."""

import io
import os
import signal
import subprocess
import warnings
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from gmsearch.cli import main


def gmsearch(*words: object) -> subprocess.CompletedProcess[str]:
    """What `gmsearch WORDS` returns and writes; what it sets in the process is undone. Warnings are
    no errors, as they are none in a process of its own: Ray has some for itself.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    on_term = signal.getsignal(signal.SIGTERM)
    line = [str(word) for word in words]
    try:
        with (
            patch.dict(os.environ),
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main(line)
    finally:
        signal.signal(signal.SIGTERM, on_term)
    written = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(line, code, *written)
