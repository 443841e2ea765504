"""The claims of a paper, tested here: `gmsearch reproduce`.

RUN/                      a comparison, and in it
  trials/*/hits.npz       what each training is right about: every minival image, whole and in parts
  claims.csv, claims.json, claims.png
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gmsearch import checkpoint
from gmsearch.claims import (
    FAILS,
    HOLDS,
    OPEN,
    TOP1,
    UNTESTED,
    VERDICTS,
    Hits,
    Judged,
    Reproduction,
    claims_csv,
    judge,
)
from gmsearch.claims_figure import draw_claims
from gmsearch.compare import run_comparison
from gmsearch.console import make_console
from gmsearch.cost import Cost, total
from gmsearch.data import AnyDataset
from gmsearch.errors import SettingsError, TrainingError
from gmsearch.experiment import Comparison
from gmsearch.files import write_atomically
from gmsearch.frequency import hits_by_part
from gmsearch.hits_file import read_hits, write_hits
from gmsearch.network import Network, network_from_dict
from gmsearch.radii import RAW
from gmsearch.run import RunFolder, check_run, read_curve
from gmsearch.session import Ending, load_searched
from gmsearch.space import format_size
from gmsearch.training import make_feed, start
from gmsearch.what import resolve
from gmsearch.zoo import ledger_of

FEWEST_SEEDS = 2  # with one, nothing is known of the noise of training
BUDGET = "BUDGET"  # in a network of a reproduction


def networks_of(reproduction: Reproduction, budget: int) -> dict[str, Network]:
    """The networks by name, GmNet scaled to a budget of MACs. Raises UserError."""
    return {
        name: resolve(what.replace(BUDGET, str(budget)))
        for name, what in reproduction.networks.items()
    }


class Outcome(NamedTuple):
    """How a session ended, and claims.json where all was trained."""

    ending: Ending
    document: dict[str, Any] | None


def run_reproduction(
    reproduction: Reproduction, settings: Comparison, folder: RunFolder
) -> Outcome:
    """Trains what is left to train, judges every claim, prints and writes the answer.

    Where all is trained, only the judging is done again. Raises UserError, and TrainingError where
    every training fails.
    """
    if settings.seeds < FEWEST_SEEDS:
        raise SettingsError(
            f"--seeds {settings.seeds}: without a second seed, nothing is known of the noise of "
            f"training; give {FEWEST_SEEDS} or more"
        )
    if settings.stream:
        raise SettingsError("--stream: a reproduction judges packed images; leave it out")
    networks = {name: network_from_dict(told) for name, told in settings.networks.items()}
    console = make_console()
    if not _is_trained(settings, networks, folder):
        ending = run_comparison(settings, folder, timed=False)  # no claim is about speed
        if ending is not Ending.FINISHED:
            console.print("say the same line again to go on, and for the claims", soft_wrap=True)
            return Outcome(ending, None)
    with folder.locked():
        hits = _look_at_all(reproduction, settings, networks, folder, console)
        document = _answer(reproduction, settings, networks, hits, folder, console)
    return Outcome(Ending.FINISHED, document)


def _trials(
    settings: Comparison, networks: Mapping[str, Network], folder: RunFolder
) -> dict[str, list[tuple[int, Path]]]:
    """Seed and folder of the trainings of every network that came to their end."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return {
        name: [
            (seed, place)
            for seed in seeds
            if len(read_curve(place := folder.trial_folder(f"{network.id}-seed{seed}")))
            >= settings.recipe.num_epochs
        ]
        for name, network in networks.items()
    }


def _is_trained(settings: Comparison, networks: Mapping[str, Network], folder: RunFolder) -> bool:
    """Whether the comparison was made to its end, and with these settings."""
    if not check_run(folder, settings) or not folder.comparison_file.exists():
        return False
    trials = _trials(settings, networks, folder)
    return all(len(own) == settings.seeds for own in trials.values())


def _look_at_all(
    reproduction: Reproduction,
    settings: Comparison,
    networks: Mapping[str, Network],
    folder: RunFolder,
    console: Console,
) -> Hits:
    """What all trainings are right about, network by network; those with fewer than two trainings
    are left out.
    """
    trials = _trials(settings, networks, folder)
    known = {name: own for name, own in trials.items() if len(own) >= FEWEST_SEEDS}
    for name in networks:
        if name not in known:
            console.print(f"{name}: fewer than {FEWEST_SEEDS} seeds were trained", soft_wrap=True)
    if not known:
        raise TrainingError("no network was trained with two seeds")
    dataset = load_searched(settings, console)
    check_run(folder, settings.model_copy(update={"data_digest": dataset.digest}))
    measures, found = reproduction.measures, {}
    for number, (name, own) in enumerate(known.items(), start=1):
        console.print(f"looking at the bands: {name}, {number} of {len(known)}", soft_wrap=True)
        each = [
            _hits(networks[name], settings, dataset, seed, place, measures) for seed, place in own
        ]
        found[name] = {m: np.stack([hits[m] for hits in each]) for m in measures}
    return found


def _hits(
    network: Network,
    settings: Comparison,
    dataset: AnyDataset,
    seed: int,
    place: Path,
    measures: list[str],
) -> dict[str, np.ndarray]:
    """Whether one training is right about each image of minival; from its hits.npz, where that is
    whole and newer than its weights.
    """
    weights, file = place / "checkpoint.pt", place / "hits.npz"
    if not weights.exists():
        raise SettingsError(f"{weights}: no weights of this training; they lie on another machine?")
    if file.exists() and file.stat().st_mtime_ns > weights.stat().st_mtime_ns:
        known = read_hits(file, measures, len(dataset.minival))
        if known is not None:
            return known
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        state = start(
            network,
            len(dataset.classes),
            settings.recipe,
            seed=seed,
            resolution=settings.resolution,
            device=device,
        )
    checkpoint.load(weights, state)
    model = state.model if state.ema is None else state.ema.module
    feed = make_feed(dataset, settings.recipe, seed=seed, device=device)
    parts = [RAW if measure == TOP1 else measure for measure in measures]
    hits = hits_by_part(model, feed.minival(), parts, settings.recipe.precision)
    found = {
        measure: hits[part].cpu().numpy() for measure, part in zip(measures, parts, strict=True)
    }
    write_hits(file, found)
    return found


def _answer(
    reproduction: Reproduction,
    settings: Comparison,
    networks: Mapping[str, Network],
    hits: Hits,
    folder: RunFolder,
    console: Console,
) -> dict[str, Any]:
    """Prints and writes what came out; returns claims.json."""
    judged = judge(reproduction, hits)
    costs = {name: total(ledger_of(networks[name])) for name in hits}
    num_images = next(iter(hits.values()))[reproduction.measures[0]].shape[1]
    what = f"{settings.fidelity_in_words()}, {settings.seeds} seeds, {num_images:,} minival images"
    document = {
        "source": reproduction.source,
        "fidelity": settings.fidelity_in_words(),
        "seeds": settings.seeds,
        "images": num_images,
        "networks": {
            name: {
                "id": networks[name].id,
                "macs": costs[name].macs,
                "params": costs[name].params,
                **{m: [100 * float(x) for x in own[m].mean(1)] for m in reproduction.measures},
            }
            for name, own in hits.items()
        },
        "claims": [asdict(each) for each in judged],
    }
    write_atomically(folder.path / "claims.json", json.dumps(document, indent=2) + "\n")
    write_atomically(folder.path / "claims.csv", claims_csv(judged))
    draw_claims(folder.path / "claims.png", judged, what)
    console.print(networks_table(reproduction, hits, costs))
    console.print(claims_table(judged))
    console.print(in_words(judged, what), soft_wrap=True)
    console.print(f"wrote claims.csv, claims.json and claims.png to {folder.path}", soft_wrap=True)
    return document


def networks_table(reproduction: Reproduction, hits: Hits, costs: Mapping[str, Cost]) -> Table:
    """Every network with its accuracy on each measure, mean and deviation over seeds."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("network", overflow="fold")
    for column in (*reproduction.measures, "MACs", "params"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, own in hits.items():
        means = {m: 100 * own[m].mean(1) for m in reproduction.measures}
        cells = (f"{each.mean():.1f} ± {each.std(ddof=1):.1f}" for each in means.values())
        macs, params = costs[name].macs, costs[name].params
        table.add_row(name, *cells, format_size(macs), format_size(params))
    return table


def claims_table(judged: list[Judged]) -> Group:
    """Every claim with what was measured and what the paper has."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("claim", overflow="fold")
    for column in ("on", "difference", "95 %", "paper", "p, corrected", "verdict"):
        justify: Any = "left" if column in ("on", "verdict") else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for each in judged:
        paper = "" if each.published is None else f"{each.published:+.1f}"
        if each.difference is None:
            table.add_row(each.words, each.measure, "", "", paper, "", each.verdict)
            continue
        assert each.p is not None
        table.add_row(
            each.words,
            each.measure,
            f"{each.difference:+.1f}",
            f"{each.low:+.1f} to {each.high:+.1f}",
            paper,
            "< 0.001" if each.p < 0.001 else f"{each.p:.3f}",
            each.verdict,
        )
    return Group(Text("claims, differences in points"), table)


def in_words(judged: list[Judged], what: str) -> str:
    """How many claims came out which way, and how that was decided."""
    counts = {verdict: sum(each.verdict == verdict for each in judged) for verdict in VERDICTS}
    told = [f"{counts[HOLDS]} {HOLDS}", f"{counts[FAILS]} {FAILS}"]
    told.append(f"{counts[OPEN]} {OPEN}" + (" at this size" if counts[OPEN] else ""))
    untested = counts[UNTESTED] > 0
    if untested:
        told.append(f"{counts[UNTESTED]} {UNTESTED}, for want of a second seed")
    also = ", tested or not" if untested else ""
    return (
        f"{len(judged)} claims: {', '.join(told)} ({what})\n"
        "Intervals are of one claim each, for other trainings and other images; a verdict is "
        f"Holm's correction for all {len(judged)}{also}, so an interval beside 0 may be not "
        "resolved."
    )
