"""Where packs lie that were made on the way to something else, and so are found again."""

import os
import re
from pathlib import Path

LONGEST_STEM = 60  # letters of a source's name in that of its pack


def cache_folder() -> Path:
    """The user's cache folder for gmsearch: $XDG_CACHE_HOME/gmsearch, or ~/.cache/gmsearch."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gmsearch"


def place_of(source: str, resolution: int, key: str, cache: Path | None) -> Path:
    """The pack of a source: a folder that says what is in it, and has the key of its contents."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(source).stem)[:LONGEST_STEM].strip("-.")
    return (cache or cache_folder()) / "packs" / f"{stem}-{resolution}px-{key}"


def copy_of(digest: str) -> Path:
    """Where this machine has its copy of a pack of another machine."""
    return cache_folder() / "copies" / digest
