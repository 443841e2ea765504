"""The certificate of a cheap fidelity: does it rank networks as a fuller training does?

RUN/proxy/NAME/              a comparison for each fidelity: search, half-images, …, fuller
RUN/proxy.json, proxy.csv    what came out
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gmsearch.architecture import STRIDE, Architecture
from gmsearch.certificate import (
    FULLER,
    SEARCH,
    Certificate,
    Trained,
    certificate_table,
    certify,
    write_certificate,
)
from gmsearch.cost import cost
from gmsearch.errors import SettingsError, TrainingError
from gmsearch.experiment import Comparison, Experiment, Settings, make_settings, read_settings
from gmsearch.history import read_history
from gmsearch.jobs import Writer
from gmsearch.network import network_from_dict
from gmsearch.recipe import Recipe
from gmsearch.record import TrialRecord
from gmsearch.run import RunFolder
from gmsearch.session import Ending, open_session
from gmsearch.space import SearchSpace
from gmsearch.survey import draw_within
from gmsearch.trainings import Trainings

FEWEST = 4  # networks; fewer have no interval worth the name
PIXELS = 16  # a lower resolution is a multiple of it
POOL = 50  # candidates that are drawn for each network that is taken from a space


@dataclass(frozen=True)
class Fidelity:
    """How long, on which share of the images, and at how many pixels networks are trained."""

    name: str
    epochs: int
    train_share: float
    resolution: int

    @property
    def words(self) -> str:
        unit = "epoch" if self.epochs == 1 else "epochs"
        share = "" if self.train_share == 1 else f", {100 * self.train_share:.3g} % of the images"
        return f"{self.epochs} {unit}{share}, {self.resolution} px"


def fidelities(searched: Settings, fuller_epochs: int) -> list[Fidelity]:
    """The search's own, others that cost as much, and the fuller one.

    Raises SettingsError where that is not fuller.
    """
    recipe, pixels = searched.recipe, searched.resolution
    own = Fidelity(SEARCH, recipe.num_epochs, recipe.train_share, pixels)
    if fuller_epochs <= own.epochs:
        raise SettingsError(
            f"--fuller-epochs {fuller_epochs}: the search has {own.epochs}; give more"
        )
    half = own.train_share / 2
    found = [own, Fidelity("half-images", 2 * own.epochs, half, pixels)]
    # A step of about half the pixels; networks have a stride that leaves nothing of fewer.
    lower = PIXELS * round(pixels / math.sqrt(2) / PIXELS)
    if STRIDE <= lower < pixels:
        gain = (pixels / lower) ** 2
        longer = Fidelity("low-resolution", round(own.epochs * gain), own.train_share, lower)
        found.append(longer)
        if own.train_share * gain <= 1:
            more = own.train_share * gain
            found.append(Fidelity("low-resolution-more-images", own.epochs, more, lower))
    return [*found, Fidelity(FULLER, fuller_epochs, own.train_share, pixels)]


@dataclass(frozen=True)
class Subject:
    """What is to be certified."""

    folder: Path  # of the run, or one that is made for this
    settings: Experiment  # of the search, or as one would have them
    networks: dict[str, Architecture]  # by id
    macs: dict[str, int]
    chosen: str
    searched: dict[str, TrialRecord]  # that the run has trained; empty for a space


def of_run(path: Path, count: int) -> Subject:
    """Networks that a search has trained, the front among them. Raises SettingsError."""
    history = read_history(path)
    if history.experiment.stream:
        raise SettingsError(f"{path} streams its images; `gmsearch proxy` needs them packed")
    known = {record.id: record for record in history.complete}
    folder = history.folder.path
    ids = _begun(folder, count)
    if ids is None:
        if len(known) < count:
            raise SettingsError(
                f"--architectures {count}: {path} has {len(known)} trained networks; ask for as "
                "many at most, or let it go on"
            )
        points = [(record.macs, record.curve[-1]["top1"]) for record in known.values()]
        place = {each: i for i, each in enumerate(known)}
        front = [place[record.id] for record in history.front if record.id in place]
        ids = [list(known)[i] for i in spread(points, front, count)]
    lost = [each for each in ids if each not in known]
    if lost:
        raise SettingsError(
            f"{folder / 'proxy'}: its network {lost[0]} is not in the run; remove it"
        )
    searched = {each: known[each] for each in ids}
    networks = {each: _architecture(record.network) for each, record in searched.items()}
    macs = {each: record.macs for each, record in searched.items()}
    words = "of a run: its front, and others spread over MACs and top1"
    return Subject(folder, history.experiment, networks, macs, words, searched)


def of_space(experiment: Experiment, folder: Path, count: int) -> Subject:
    """Networks of a space within the budget, drawn by seed. Raises SettingsError."""
    space: SearchSpace = experiment.search_space(folder)
    pool = draw_within(space, experiment.budget, POOL * count, seed=experiment.seed)
    if len(pool) < count:
        raise SettingsError(
            f"--architectures {count}: the space has {len(pool)} networks within the budget"
        )
    macs = {each.id: space.cost(each).macs for each in pool}
    left = sorted(pool, key=lambda each: macs[each.id])
    chosen = []
    for target in np.geomspace(macs[left[0].id], macs[left[-1].id], count).tolist():
        chosen.append(min(left, key=lambda each: abs(math.log(macs[each.id] / target))))
        left.remove(chosen[-1])
    ids = _begun(folder, count)
    if ids is not None and set(ids) != {each.id for each in chosen}:
        raise SettingsError(f"{folder} has another space, budget or seed; choose another --name")
    networks = {each.id: each for each in chosen}
    words = f"of a space: drawn with seed {experiment.seed}, spread over MACs"
    return Subject(folder, experiment, networks, {each: macs[each] for each in networks}, words, {})


def spread(points: Sequence[tuple[float, float]], first: Sequence[int], count: int) -> list[int]:
    """Indices of `count` points, the first ones among them (evenly chosen where they are too many),
    the others each as far as can be from those before, by ranks.
    """
    ranks = np.argsort(np.argsort(np.asarray(points, float), 0, "stable"), 0) / len(points)
    if len(first) >= count:
        return [first[i] for i in np.linspace(0, len(first) - 1, count).round().astype(int)]
    taken = list(first) or [0]
    while len(taken) < count:
        gaps = np.linalg.norm(ranks[:, None] - ranks[taken], axis=2).min(1)
        gaps[taken] = -1
        taken.append(int(gaps.argmax()))
    return taken


def _begun(folder: Path, count: int) -> list[str] | None:
    """The networks that were chosen when this was begun; the run may have grown since."""
    for file in sorted(folder.glob("proxy/*/experiment.yaml")):
        settings = read_settings(file)
        if isinstance(settings, Comparison):
            if len(settings.networks) != count:
                raise SettingsError(
                    f"--architectures {count}: {folder / 'proxy'} has "
                    f"{len(settings.networks)}; give as many, or remove it"
                )
            return list(settings.networks)
    return None


def _architecture(network: Any) -> Architecture:
    assert isinstance(network, Architecture)  # a search has no others
    return network


def run_proxy(subject: Subject, epochs: int, console: Console, effort: Mapping[str, Any]) -> Ending:
    """Trains what is left to train, prints the table and writes it, or goes on with that.

    `effort` are settings such as workers; its `max_hours` are of all fidelities together. Raises
    UserError, and TrainingError where too few networks can be trained.
    """
    began, found = time.time(), []
    every = fidelities(subject.settings, epochs)
    _check_fuller(subject, every[-1])
    for fidelity in every:
        console.print(f"{fidelity.name}: {fidelity.words}", soft_wrap=True)
        if fidelity.name == SEARCH and subject.searched:
            found.append((fidelity, subject.searched))
            continue
        limits = dict(effort)
        if limits.get("max_hours"):
            limits["max_hours"] = max(1e-6, limits["max_hours"] - (time.time() - began) / 3600)
        ending, records = _train(subject, fidelity, limits)
        if ending is not Ending.FINISHED:
            if ending is Ending.LIMITED:
                console.print(f"stopped: --max-hours {effort['max_hours']:g} are over")
            console.print("say the same line again to go on", soft_wrap=True)
            return ending
        found.append((fidelity, records))
    certificate = _judge(subject, found)
    write_certificate(certificate, subject.folder)
    console.print(certificate_table(certificate))
    console.print(certificate.in_words(), soft_wrap=True)
    console.print(f"wrote proxy.json and proxy.csv to {subject.folder}", soft_wrap=True)
    return Ending.FINISHED


def _check_fuller(subject: Subject, fuller: Fidelity) -> None:
    """Raises SettingsError where the fuller training was begun with other epochs."""
    folder = _folder(subject, fuller)
    if folder.experiment_file.exists():
        before = read_settings(folder.experiment_file).recipe.num_epochs
        if before != fuller.epochs:
            raise SettingsError(
                f"--fuller-epochs {fuller.epochs}: {folder.path} has {before}; give as many, or "
                "remove it"
            )


def _folder(subject: Subject, fidelity: Fidelity) -> RunFolder:
    return RunFolder(subject.folder / "proxy" / fidelity.name)


def _train(
    subject: Subject, fidelity: Fidelity, effort: Mapping[str, Any]
) -> tuple[Ending, dict[str, TrialRecord]]:
    """The networks at one fidelity, by id; those that failed are left out."""
    before, folder = subject.settings, _folder(subject, fidelity)
    recipe: Recipe = replace(
        before.recipe, num_epochs=fidelity.epochs, train_share=fidelity.train_share
    )
    settings = make_settings(
        Comparison,
        {
            "name": fidelity.name,
            "data": before.data,
            "resolution": fidelity.resolution,
            "recipe": recipe,
            "seed": before.seed,
            "cache": before.cache,
            "networks": {each: network.to_dict() for each, network in subject.networks.items()},
            **effort,
        },
    )
    with open_session(settings, folder) as session:
        digest = before.data_digest
        if fidelity.resolution == before.resolution and digest not in (
            None,
            session.dataset.digest,
        ):
            raise SettingsError(f"{before.data}: not the data that {subject.folder} was trained on")
        networks = {each: network_from_dict(told) for each, told in settings.networks.items()}
        space = before.search_space(subject.folder)
        costs = {each: space.cost(network) for each, network in subject.networks.items()}
        trainings = Trainings(settings, folder, networks, costs)
        account = None
        if not trainings.is_finished:
            account = session.train(trainings, Writer(folder.write_trials))
        records = list(trainings.records.values())
        folder.write_trials(records)
        session.settle(account)
        for record in records:
            if record.state == "failed":
                session.say(f"failed: {record.id}: {record.reason}")
        complete = {record.id: record for record in records if record.state == "complete"}
        return session.ending(trainings.is_finished, account), complete


def _judge(
    subject: Subject, found: Sequence[tuple[Fidelity, Mapping[str, TrialRecord]]]
) -> Certificate:
    ids = [each for each in subject.networks if all(each in records for _, records in found)]
    if len(ids) < FEWEST:
        raise TrainingError(f"only {len(ids)} networks could be trained at every fidelity")
    about = _folder(subject, found[-1][0]).data
    assert about is not None  # the fuller training has just read it
    trained = []
    for fidelity, records in found:
        macs = sum(
            cost(
                subject.networks[each],
                resolution=fidelity.resolution,
                num_classes=len(about.classes),
            ).macs
            for each in ids
        )
        trained.append(
            Trained(
                fidelity.name,
                fidelity.words,
                fidelity.epochs,
                fidelity.train_share,
                fidelity.resolution,
                top1=[records[each].curve[-1]["top1"] for each in ids],
                spent=macs * fidelity.epochs * fidelity.train_share * about.train,
                seconds=sum(records[each].seconds for each in ids),
            )
        )
    return certify(
        ids,
        [subject.macs[each] for each in ids],
        trained,
        num_minival=about.minival,
        chosen=subject.chosen,
        seed=subject.settings.seed,
    )
