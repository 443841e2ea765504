"""A copy of a pack that comes from another machine, piece by piece."""

import shutil
import uuid

from gmsearch.data.cache import copy_of
from gmsearch.data.packing import check_disk
from gmsearch.data.packs import read_pack
from gmsearch.errors import DataError


class Receiver:
    """Puts a pack together in this machine's cache; it has its name once it is whole."""

    def __init__(self, digest: str, splits: tuple[str, ...], nbytes: int) -> None:
        self._splits = splits
        self._place = copy_of(digest)
        check_disk(self._place, nbytes)
        self._unfinished = self._place.with_name(f".{digest}.{uuid.uuid4().hex[:8]}")

    def receive(self, name: str, piece: bytes) -> None:
        """The next piece of a file, which is new where there was none before."""
        path = self._unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(piece)

    def finish(self) -> str:
        """`there`, or what is wrong with the copy."""
        try:
            pack = read_pack(self._unfinished)
            pack.verify(*self._splits)
            if not self._place.exists():  # else another node of the same disk was faster
                self._unfinished.rename(self._place)
        except DataError as error:
            return str(error)
        finally:
            self.discard()
        return "there"

    def discard(self) -> None:
        """Takes back what did not become a copy."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
