"""Runs as a search leaves them, without any training."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmsearch.experiment import Experiment, make_settings
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.space_file import read_space_data
from gmsearch.study import SearchStudy

SPACE = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
BUDGET = 30_000_000


def curve(*top1: float) -> list[dict]:
    return [
        {"epoch": i + 1, "top1": value, "loss": 1.0, "train_loss": 1.0, "seconds": 2.0}
        for i, value in enumerate(top1)
    ]


def make_run(
    path: Path, top1s: list[float], *, num_minival: int = 500, **settings
) -> tuple[RunFolder, SearchStudy]:
    """A run with a complete trial of two epochs, or of one where there is one, for each top1, and
    its open study.
    """
    said = {
        "name": path.name,
        "space": read_space_data(SPACE),
        "budget": BUDGET,
        "trials": 99,
        "sampler": "random",
    }
    experiment = make_settings(Experiment, {**said, **settings})
    folder = RunFolder(path)
    write_settings(folder, experiment, RunData(90, num_minival, ("a", "b")))
    study = SearchStudy(folder, experiment, experiment.search_space(folder.path))
    for top1 in top1s:
        number = study.ask().number
        study.report(number, curve(*(top1 / 2, top1)[-experiment.recipe.num_epochs :]))
        study.tell(number)
    return folder, study


NOBODY = 65534


@contextmanager
def read_only(folder: RunFolder) -> Iterator[Path]:
    """A copy of a run whose folders take no file, for a user who is not root: root writes anywhere.

    What is used inside has to be imported before: not all of it is there for such a user.
    """
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        copy = Path(shutil.copytree(folder.path, Path(parent) / "a run?"))
        everything = [copy, *copy.rglob("*")]
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield copy
        finally:
            if is_root:
                os.seteuid(0)
            for path in everything:
                path.chmod(0o755)
