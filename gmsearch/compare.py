"""Networks trained alike, side by side: `gmsearch train` and `gmsearch compare`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from statistics import fmean, median, stdev

from gmsearch.band_picture import Line, draw_bands
from gmsearch.console import comparison_table
from gmsearch.cost import Cost, total
from gmsearch.errors import ExportError, TrainingError, WeightsError
from gmsearch.experiment import Comparison
from gmsearch.files import as_word, file_digest, write_atomically
from gmsearch.jobs import Writer
from gmsearch.latency import EAGER, ONNX_RUNTIME, Latency, eager, measure, onnx
from gmsearch.network import Network, network_from_dict
from gmsearch.onnx_export import export_onnx
from gmsearch.palette import LOOKS
from gmsearch.record import (
    ComparedNetwork,
    EpochDict,
    TrialRecord,
    band_cost_in_words,
    band_names_of,
)
from gmsearch.resolved import BandResolution, resolve_bands, resolve_differences
from gmsearch.run import RunFolder
from gmsearch.session import Ending, Session, open_session
from gmsearch.space import counted
from gmsearch.trainings import Trainings
from gmsearch.weights import load_weights
from gmsearch.zoo import build_deployed, build_network, check_network, ledger_of

# Where networks are used, and so counted and timed, whatever they are trained on here.
RESOLUTION, NUM_CLASSES = 224, 1000


def run_comparison(comparison: Comparison, folder: RunFolder, *, timed: bool = True) -> Ending:
    """Trains every network with every seed, or goes on with it; prints and writes the table, with
    latencies where it is `timed`.

    Raises UserError, with no run folder left behind where nothing was trained yet, and
    TrainingError where every training fails.
    """
    networks = {name: network_from_dict(data) for name, data in comparison.networks.items()}
    with open_session(comparison, folder) as session:
        batch_size, num_classes = comparison.recipe.batch_size, len(session.dataset.classes)
        costs = {}
        for network in {network.id: network for network in networks.values()}.values():
            check_network(network, num_classes, comparison.resolution, batch_size)
            ledger = ledger_of(network, resolution=RESOLUTION, num_classes=NUM_CLASSES)
            costs[network.id] = total(ledger)
        trainings = Trainings(comparison, folder, networks, costs)
        _check_weights(session, networks, trainings)
        return _compare(session, networks, trainings, costs, timed)


def _check_weights(
    session: Session[Comparison], networks: Mapping[str, Network], trainings: Trainings
) -> None:
    """Raises WeightsError where trainings are still to start from weights that are not those of
    the settings, or not of the network.
    """
    settings = session.settings
    if settings.weights is None or trainings.all_begun:
        return
    path = Path(settings.weights)
    for network in networks.values():
        model = build_network(network, len(session.dataset.classes), settings.resolution)
        if fresh := load_weights(model, path):
            session.console.print(f"{path}: of other classes; {fresh} starts fresh")
    if file_digest(path) != settings.weights_digest:
        raise WeightsError(f"{path}: not the file that this run began with; put that one back")


def _compare(
    session: Session[Comparison],
    networks: Mapping[str, Network],
    trainings: Trainings,
    costs: Mapping[str, Cost],
    timed: bool,
) -> Ending:
    """Trains what is left to train, and answers."""
    comparison, folder, console = session.settings, session.folder, session.console
    console.print(
        f"{comparison.name}: {counted(len(costs), 'network')}, "
        f"{counted(trainings.num_seeds, 'seed')} each, {comparison.fidelity_in_words()}",
        soft_wrap=True,
    )
    if trainings.records:
        are = "is" if trainings.num_complete == 1 else "are"
        console.print(f"going on with {folder.path}: {trainings.num_complete} {are} trained")

    watched = [] if comparison.watch is None else comparison.watch.names

    def write_trials(records: list[TrialRecord]) -> None:
        folder.write_trials(records, also=["name", "seed", *watched])

    account = session.train(trainings, Writer(write_trials))
    records = list(trainings.records.values())
    write_trials(records)
    latencies: dict[str, dict[str, Latency]] = {}
    if timed and trainings.is_finished:  # one who stops does not want to wait for it
        with console.status("measuring latency …"):
            latencies, remarks = measure_latencies(networks)
        for remark in remarks:
            console.print(remark, soft_wrap=True)
    rows = compared(comparison, networks, records, costs, latencies)
    _answer(session, rows, resolve_bands(records))
    if told := band_cost_in_words(records):
        draw_bands(folder.bands_picture, _lines(networks, records))
        console.print(f"{told}; {folder.bands_picture} has them over training", soft_wrap=True)
    if settled := session.settle(account):
        console.print(settled.in_words())
    failed = [record for record in records if record.state == "failed"]
    for record in failed:
        console.print(f"failed: {record.name}, seed {record.seed}: {record.reason}")
    if failed and not trainings.num_complete:
        raise TrainingError("every training failed")
    if not trainings.is_finished:
        console.print(f"next: gmsearch resume {as_word(folder.path)}", soft_wrap=True)
    return session.ending(trainings.is_finished, account)


def _lines(networks: Mapping[str, Network], records: Iterable[TrialRecord]) -> list[Line]:
    """The trainings of each network as lines of a picture."""
    curves: dict[str, list[list[EpochDict]]] = {}
    for record in records:
        curves.setdefault(record.id, []).append(record.curve)
    names: dict[str, str] = {}
    for name, network in networks.items():
        names.setdefault(network.id, name)
    return [
        Line(name, colour, curves[network_id], style=style)
        for (network_id, name), (style, colour) in zip(names.items(), cycle(LOOKS))
        if network_id in curves
    ]


def _answer(
    session: Session[Comparison], rows: list[ComparedNetwork], bands: BandResolution | None
) -> None:
    """Prints the table and what it resolves, and writes both to comparison.json."""
    console, folder, num_minival = session.console, session.folder, len(session.dataset.minival)
    resolution = resolve_differences(rows, num_minival)
    console.print(comparison_table(rows))
    if resolution is not None:
        told = resolution.in_words(num_minival, of="" if bands is None else "top1")
        console.print(told, soft_wrap=True)
    if bands is not None:
        console.print(bands.in_words(), soft_wrap=True)
    document = {
        "fidelity": session.settings.fidelity_in_words(),
        "num_minival": num_minival,
        "counted_at": {"resolution": RESOLUTION, "num_classes": NUM_CLASSES},
        "resolved": None if resolution is None else resolution._asdict(),
        "bands_resolved": None if bands is None else bands.to_dict(),
        "networks": [asdict(row) for row in rows],
    }
    write_atomically(folder.comparison_file, json.dumps(document, indent=2) + "\n")
    console.print(f"wrote comparison.json and trials.csv to {folder.path}", soft_wrap=True)


def measure_latencies(
    networks: Mapping[str, Network],
) -> tuple[dict[str, dict[str, Latency]], list[str]]:
    """Milliseconds of one image on one core of this machine, by network id and runtime; all are
    measured in turn. The remarks say which networks cannot be exported, and so have none in ONNX
    Runtime.
    """
    subjects, remarks = [], []
    for network in {network.id: network for network in networks.values()}.values():
        model = build_deployed(network, NUM_CLASSES, RESOLUTION)
        subjects.append((network.id, eager(model, RESOLUTION, batch_size=1, threads=1)))
        try:
            exported = export_onnx(model, RESOLUTION)
        except ExportError as error:
            remarks.append(f"{network.id}: {error}")
        else:
            subjects.append((network.id, onnx(exported, RESOLUTION, batch_size=1, threads=1)))
    found: dict[str, dict[str, Latency]] = {}
    measured = measure([subject for _, subject in subjects])
    for (network_id, _), latency in zip(subjects, measured, strict=True):
        found.setdefault(network_id, {})[latency.runtime] = latency
    return found, remarks


def compared(
    settings: Comparison,
    networks: Mapping[str, Network],
    records: Iterable[TrialRecord],
    costs: Mapping[str, Cost],
    latencies: Mapping[str, Mapping[str, Latency]],
) -> list[ComparedNetwork]:
    """A row for each name, in the order given, from the trainings that are complete; `costs` and
    `latencies` are by network id.
    """
    done = [record for record in records if record.state == "complete"]
    rows = []
    for name, network in networks.items():
        own = sorted((r for r in done if r.id == network.id), key=lambda record: record.seed)
        top1s = [record.curve[-1]["top1"] for record in own]
        speeds = [epoch.get("images_per_second") for record in own for epoch in record.curve]
        known_speeds = [speed for speed in speeds if speed is not None]
        macs, params, activations, _ = costs[network.id]
        measured = latencies.get(network.id, {})
        rows.append(
            ComparedNetwork(
                name=name,
                id=network.id,
                words=network.in_words(),
                top1s=top1s,
                top1=fmean(top1s) if top1s else None,
                spread=stdev(top1s) if len(top1s) > 1 else None,
                macs=macs,
                params=params,
                activations=activations,
                eager_ms=measured[EAGER].median_ms if EAGER in measured else None,
                onnx_ms=measured[ONNX_RUNTIME].median_ms if ONNX_RUNTIME in measured else None,
                images_per_second=median(known_speeds) if known_speeds else None,
                published=settings.published.get(name),
                bands={
                    band: fmean(record.bands[band] for record in own)
                    for band in band_names_of(own)
                    if all(band in record.bands for record in own)
                },
            )
        )
    return rows
