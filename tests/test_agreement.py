"""How full trainings agree with the search: what was trained alike is laid beside each other."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gmsearch.agreement import (
    UNKNOWN,
    correlation_in_words,
    differences,
    finalists_table,
    settings_of,
)
from gmsearch.experiment import FullTraining
from gmsearch.finalists import Finalist
from gmsearch.gmnet import gmnet
from gmsearch.recipe import Recipe

WHOLE = 6  # epochs of a training of the search


def finalist(
    folder: Path, searched: float, top1: float, *, searched_epochs=WHOLE, epochs=24, **said
) -> Finalist:
    """A network that was trained in full."""
    folder.mkdir()
    result = {"id": folder.name, "seed": 0, "epochs": epochs, "raw": {"top1": top1, "top5": 90.0}}
    (folder / "result.json").write_text(json.dumps(result))
    told = {"data": "x", "data_digest": "abc", "resolution": 32, **said}
    settings = FullTraining(recipe=Recipe(num_epochs=epochs, batch_size=24), **told)
    (folder / "settings.yaml").write_text(settings.to_yaml())
    network = gmnet("gmnet_s1", base_width=2)
    return Finalist(folder.name, network, folder, searched, searched_epochs, WHOLE)


def one_order(folder: Path, top1s: list[float], **said) -> list[Finalist]:
    """The search saw them from worse to better."""
    return [
        finalist(folder / f"{len(list(folder.iterdir()))}", 40.0 + i, top1, **said)
        for i, top1 in enumerate(top1s)
    ]


def test_each_settings_have_an_order_of_their_own(tmp_path):
    """Longer trainings have more top1: laid together, tau would be of the epochs."""
    short = one_order(tmp_path, [50.0, 51.0, 52.0], epochs=2)
    assert "full training: 1.00 (3 networks" in correlation_in_words(short)
    long = one_order(tmp_path, [72.0, 71.0, 70.0], epochs=24)
    words = correlation_in_words([*short, *long])
    assert words.startswith("trained with different settings (1: num_epochs 2; 2: num_epochs 24), ")
    assert "; settings 1: Kendall's tau between search and full training: 1.00 (3 net" in words
    assert "; settings 2: Kendall's tau between search and full training: -1.00 (3 net" in words
    few = correlation_in_words([*short[:2], *long[:1]])
    assert "Kendall" not in few and few.count("needs three networks") == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data_digest": "xyz"}, "data xyz"),
        ({"resolution": 64}, "resolution 64"),
        ({"teacher": "resnet50"}, "teacher resnet50"),
        ({"stream": True}, "stream true"),
        ({"epochs": 3}, "num_epochs 3"),
    ],
)
def test_what_makes_settings_different(tmp_path, other, words):
    both = [*one_order(tmp_path, [50.0]), *one_order(tmp_path, [50.0], **other)]
    assert settings_of(both) == ["1", "2"] and differences(both)["2"] == words


@pytest.mark.parametrize(
    "other",
    [{"seed": 7}, {"workers": 2}, {"accumulate": 2}, {"compiled": True}, {"cache": "/c"},
     {"data": "moved"}],
)  # fmt: skip
def test_what_leaves_settings_alike(tmp_path, other):
    both = [*one_order(tmp_path, [50.0]), *one_order(tmp_path, [50.0], **other)]
    assert settings_of(both) == ["1", "1"] and differences(both) == {}


def test_what_the_search_stopped_is_told_and_left_out(tmp_path):
    whole = one_order(tmp_path, [50.0, 51.0, 52.0])
    best = finalist(tmp_path / "best", 19.6, 60.0, searched_epochs=2)
    words = correlation_in_words([*whole, best])
    assert "full training: 1.00 (3 networks" in words
    assert words.endswith("; 1 network that the search did not train to the end left out")
    assert best.searched_in_words == "19.6 after 2 of 6 epochs"
    told = io.StringIO()
    Console(file=told, width=140).print(finalists_table([*whole, best]))
    assert " 19.6 after 2 of 6 epochs " in told.getvalue() and "settings" not in told.getvalue()


def test_settings_that_are_not_on_record_are_of_no_order(tmp_path):
    known, lost = one_order(tmp_path, [50.0, 51.0, 52.0]), one_order(tmp_path, [10.0])
    (lost[0].folder / "settings.yaml").unlink()
    assert settings_of([*known, *lost]) == ["1", "1", "1", UNKNOWN]
    words = correlation_in_words([*known, *lost])
    assert "(1: on record; ?: not on record)" in words and "1.00 (3 networks" in words
    assert "not on record" in correlation_in_words(lost)
    told = io.StringIO()
    Console(file=told, width=140).print(finalists_table([*known, *lost]))
    assert "settings" in told.getvalue()
