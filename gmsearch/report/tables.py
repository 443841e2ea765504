"""The figures of a report as tables: what its pictures draw, and the CSV files behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import pandas as pd

from gmsearch.agreement import differences, settings_of
from gmsearch.effects import Effects, effects_by_band, effects_of
from gmsearch.finalists import Finalist, figures
from gmsearch.history import History, labels_of
from gmsearch.record import TrialRecord, band_names_of, interval_of, tied

FRONT_COLUMNS = ["id", "top1", "low", "high", "tie", "macs", "params", "activations", "gates"]


def front_table(history: History) -> pd.DataFrame:
    """The front, best first, with the 95 % interval of each top1 by its number of images."""
    best, num_minival = history.front, history.num_minival
    ties = tied(best, num_minival)
    return _trials(best, num_minival).assign(tie=[record.id in ties for record in best])


def baselines_table(history: History) -> pd.DataFrame:
    """The baselines that are trained, as `front_table` has the front."""
    baselines = [record for record in history.complete if record.baseline]
    return _trials(baselines, history.num_minival).drop(columns="tie")


def _trials(records: Sequence[TrialRecord], num_minival: int | None) -> pd.DataFrame:
    rows = []
    for record in records:
        top1 = record.curve[-1]["top1"]
        low, high = (None, None) if num_minival is None else interval_of(top1, num_minival)
        rows.append(
            {
                "id": record.id,
                "top1": top1,
                "low": low,
                "high": high,
                **record.bands,
                "macs": record.macs,
                "params": record.params,
                "activations": record.activations,
                "gates": record.words,
            }
        )
    place = FRONT_COLUMNS.index("tie")
    columns = [*FRONT_COLUMNS[:place], *band_names_of(records), *FRONT_COLUMNS[place:]]
    return pd.DataFrame(rows, columns=columns).assign(tie=False)


def curves_table(history: History) -> pd.DataFrame:
    """A row for each epoch of each trial."""
    columns = ["id", "number", "state", "epoch", "top1", "train_loss", "loss", "seconds"]
    columns += band_names_of(history.records)
    rows = [
        {"id": r.id, "number": r.number, "state": r.state, **epoch, **(epoch.get("bands") or {})}
        for r in history.records
        for epoch in r.curve
    ]
    return pd.DataFrame(rows).reindex(columns=columns)


def hypervolume_table(history: History, others: Sequence[History] = ()) -> pd.DataFrame:
    """A row for each trial of each run: how far it was then, in epochs and hypervolume, all up to
    the limit of the first.
    """
    runs = (history, *others)
    return pd.DataFrame(
        {"run": label, **step._asdict()}
        for label, each in zip(labels_of(runs), runs, strict=True)
        for step in each.growth(history.limit)
    )


def effects_table(effects: Effects) -> pd.DataFrame:
    """A row for each level of each factor, in points of top1; the factor that matters most first,
    its best level first.
    """
    order = {importance.factor: rank for rank, importance in enumerate(effects.importances)}
    rows = sorted(effects.levels, key=lambda effect: (order[effect.factor], -effect.mean))
    return pd.DataFrame([asdict(row) for row in rows]).assign(
        resolved=[row.low > 0 or row.high < 0 for row in rows]
    )


def importance_table(effects: Effects) -> pd.DataFrame:
    """The share of each factor in the differences between networks at equal MACs."""
    return pd.DataFrame([asdict(importance) for importance in effects.importances])


def band_effects_table(found: Mapping[str, Effects]) -> pd.DataFrame:
    """`effects_table` of each band, one after the other."""
    return pd.concat(
        [effects_table(effects).assign(band=name) for name, effects in found.items()]
        or [pd.DataFrame()],
        ignore_index=True,
    )


def retrained_table(finalists: Sequence[Finalist]) -> pd.DataFrame:
    """What was trained in full, beside what the search found of it, and after how many epochs; rows
    with one number of settings were trained alike.
    """
    rows = []
    numbers, differ = settings_of(finalists), differences(finalists)
    for finalist, number in zip(finalists, numbers, strict=True):
        result = finalist.result
        if result is None:
            continue
        best = figures(result)
        rows.append(
            {
                "id": finalist.id,
                "searched": finalist.searched,
                "searched_epochs": finalist.searched_epochs,
                "searched_of": finalist.whole_epochs,
                "top1": best["top1"],
                "top5": best["top5"],
                "raw": result["raw"]["top1"],
                "epochs": result["epochs"],
                "seed": result["seed"],
                "settings": number,
                "differs": differ.get(number, ""),
                "gates": finalist.words,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Tables:
    """All tables of a report, each None where there is nothing to tell."""

    front: pd.DataFrame | None
    baselines: pd.DataFrame | None
    curves: pd.DataFrame | None
    hypervolume: pd.DataFrame | None
    effects: pd.DataFrame | None
    importance: pd.DataFrame | None
    retrained: pd.DataFrame | None
    statements: tuple[str, ...]  # what the effects say, in words
    noise: float | None  # points of top1 between networks that no choice explains
    band_effects: pd.DataFrame | None = None
    band_statements: tuple[tuple[str, tuple[str, ...]], ...] = ()  # by band, as `statements`

    def named(self) -> dict[str, pd.DataFrame]:
        """The tables that have something, by the names of their files."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: each for name, each in found.items() if isinstance(each, pd.DataFrame)}


def tables_of(
    history: History, finalists: Sequence[Finalist], others: Sequence[History] = ()
) -> Tables:
    """What there is to tell of a run, beside others."""
    effects = effects_of(history.complete)
    by_band = effects_by_band(history.complete)
    return Tables(
        front=_unless_empty(front_table(history)),
        baselines=_unless_empty(baselines_table(history)),
        curves=_unless_empty(curves_table(history)),
        hypervolume=_unless_empty(hypervolume_table(history, others)),
        effects=None if effects is None else effects_table(effects),
        importance=None if effects is None else importance_table(effects),
        retrained=_unless_empty(retrained_table(finalists)),
        statements=() if effects is None else effects.in_words(),
        noise=None if effects is None else effects.noise,
        band_effects=_unless_empty(band_effects_table(by_band)),
        band_statements=tuple((name, each.in_words()) for name, each in by_band.items()),
    )


def _unless_empty(table: pd.DataFrame) -> pd.DataFrame | None:
    return None if table.empty else table
