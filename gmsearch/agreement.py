"""How full trainings agree with the search that chose their networks, among those that were trained
alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from scipy.stats import kendalltau

from gmsearch.finalists import Finalist, figures

UNKNOWN = "?"  # in the place of a number, where settings are not on record
FEWEST = 3  # networks of which a rank correlation is told


def settings_of(finalists: Sequence[Finalist]) -> list[str]:
    """The settings that each was trained with as a number: equal ones have one, from 1 in the order
    in which they are met. Seeds and workers may differ. Raises SettingsError.
    """
    return [_number(_known(finalists), finalist.fidelity) for finalist in finalists]


def differences(finalists: Sequence[Finalist]) -> dict[str, str]:
    """What tells each of several settings from the others, such as `num_epochs 24, batch_size 64`,
    by their numbers; empty where all were trained alike.
    """
    known, unknown = _known(finalists), any(each.fidelity is None for each in finalists)
    if len(known) + unknown < 2:
        return {}
    names = [name for name in (known or [{}])[0] if any(k[name] != known[0][name] for k in known)]
    told = {
        _number(known, each): ", ".join(f"{name} {_word(each[name])}" for name in names)
        for each in known
    }
    return {**told, UNKNOWN: "not on record"} if unknown else told


def _known(finalists: Sequence[Finalist]) -> list[Mapping[str, Any]]:
    """The different settings, in the order in which they are met."""
    known: list[Mapping[str, Any]] = []
    for finalist in finalists:
        if finalist.fidelity is not None and finalist.fidelity not in known:
            known.append(finalist.fidelity)
    return known


def _number(known: Sequence[Mapping[str, Any]], one: Mapping[str, Any] | None) -> str:
    return UNKNOWN if one is None else str(known.index(one) + 1)


def _word(value: Any) -> str:
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
    )


def correlation_in_words(finalists: Sequence[Finalist]) -> str:
    """How well the search's order agrees with that of the full trainings, among those with equal
    settings; and what is not compared.
    """
    numbers, told = settings_of(finalists), differences(finalists)
    parts = []
    if told:
        listed = "; ".join(f"{number}: {words or 'on record'}" for number, words in told.items())
        parts.append(f"trained with different settings ({listed}), and compared within each")
    for number in dict.fromkeys(each for each in numbers if each != UNKNOWN):
        alike = [f for f, other in zip(finalists, numbers, strict=True) if other == number]
        parts.append((f"settings {number}: " if told else "") + _order_in_words(alike))
    if not parts:
        parts.append("no rank correlation: the settings of the full trainings are not on record")
    if left_out := sum(f.searched is not None and not f.is_searched_whole for f in finalists):
        words = "1 network" if left_out == 1 else f"{left_out} networks"
        parts.append(f"{words} that the search did not train to the end left out")
    return "; ".join(parts)


def _order_in_words(alike: Sequence[Finalist]) -> str:
    """The rank correlation of networks that were trained with the same settings."""
    pairs = [
        (finalist.searched, finalist.top1)
        for finalist in alike
        if finalist.is_searched_whole and finalist.top1 is not None
    ]
    if len(pairs) < FEWEST:
        return "a rank correlation between search and full training needs three networks"
    searched, retrained = zip(*pairs, strict=True)
    tau, p = kendalltau(searched, retrained)
    if math.isnan(tau):
        return "no rank correlation: one of the two orders has ties only"
    return (
        f"Kendall's tau between search and full training: {tau:.2f} "
        f"({len(pairs)} networks, p = {p:.2f})"
    )


def finalists_table(finalists: Sequence[Finalist]) -> Table:
    """Networks that were trained in full, beside what the search found of them; their settings by
    number where they differ.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="top1 and top5 on val, of the average of the weights where there is one",
        caption_justify="left",
    )
    numbers, differ = settings_of(finalists), bool(differences(finalists))
    heads = ("id", "top1 in search", "top1", "top5", "top1 raw", "epochs")
    for column in (*heads, *(["settings"] if differ else []), "gates"):
        table.add_column(column, justify="left" if column in ("id", "gates") else "right")
    for finalist, number in zip(finalists, numbers, strict=True):
        told = [""] * 4
        if result := finalist.result:
            best = figures(result)
            told = [f"{v:.1f}" for v in (best["top1"], best["top5"], result["raw"]["top1"])]
            told.append(str(result["epochs"]))
        if differ:
            told.append(number)
        table.add_row(finalist.id, finalist.searched_in_words, *told, finalist.words)
    return table
