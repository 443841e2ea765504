"""Networks trained alike, side by side: `gmsearch train` and `gmsearch compare`.

A training is one network with one seed. What became of it lies in its own folder, trials/ID-seedS,
and nowhere else.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median, stdev, variance

from scipy.stats import t as student

from gmsearch.console import comparison_table
from gmsearch.cost import total
from gmsearch.errors import TrainingError
from gmsearch.experiment import Comparison
from gmsearch.files import write_atomically
from gmsearch.jobs import Writer
from gmsearch.latency import EAGER, ONNX_RUNTIME, Latency, eager, measure, onnx
from gmsearch.network import Network, network_from_dict
from gmsearch.onnx_export import export_onnx
from gmsearch.record import ComparedNetwork, EpochDict, Job, TrialRecord, half_interval
from gmsearch.run import RunFolder, read_curve
from gmsearch.session import Ending, Session, open_session
from gmsearch.weights import load_weights
from gmsearch.zoo import build_network, check_network, ledger_of

# Where networks are used, and so counted and timed, whatever they are trained on here.
RESOLUTION, NUM_CLASSES = 224, 1000


def run_comparison(comparison: Comparison, folder: RunFolder) -> Ending:
    """Trains every network with every seed, or goes on with it; prints and writes the table.

    Raises UserError, with no run folder left behind where nothing was trained yet, and
    TrainingError where every training fails.
    """
    networks = {name: network_from_dict(data) for name, data in comparison.networks.items()}
    with open_session(comparison, folder) as session:
        for network in networks.values():
            _check(session, network)
        return _compare(session, networks)


def _compare(session: Session[Comparison], networks: Mapping[str, Network]) -> Ending:
    """Trains what is left to train, and answers."""
    comparison, folder, console = session.settings, session.folder, session.console
    console.print(
        f"{comparison.name}: {_counted(len(networks), 'network')}, "
        f"{_counted(comparison.seeds, 'seed')} each, {comparison.fidelity_in_words()}",
        soft_wrap=True,
    )
    trainings = Trainings(comparison, folder, networks)
    if trainings.records:
        console.print(f"going on with {folder.path}: {len(trainings.records)} are trained")

    def write_trials(records: list[TrialRecord]) -> None:
        folder.write_trials(records, ["network", "seed"])

    account = None if trainings.is_finished else session.train(trainings, Writer(write_trials))
    write_trials(list(trainings.records.values()))
    _answer(session, networks, trainings)
    if account:
        console.print(account.in_words())
    failed = [record for record in trainings.records.values() if record.state == "failed"]
    for record in failed:
        console.print(f"failed: {record.name}, seed {record.seed}: {record.reason}", markup=False)
    if failed and not any(record.state == "complete" for record in trainings.records.values()):
        raise TrainingError("every training failed")
    if not trainings.is_finished:
        console.print(f"next: gmsearch resume {folder.path}", markup=False, soft_wrap=True)
    return session.ending(trainings.is_finished, account)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check(session: Session[Comparison], network: Network) -> None:
    """Raises UserError for what would only come to light in a worker."""
    settings = session.settings
    num_classes = len(session.dataset.classes)
    check_network(network, num_classes, settings.resolution)
    if settings.weights is not None:
        model = build_network(network, num_classes, settings.resolution)
        if fresh := load_weights(model, Path(settings.weights)):
            session.console.print(f"{settings.weights}: of other classes, so fresh: {fresh}")


class Trainings:
    """The jobs of a comparison: all networks with the first seed, then all with the second, …

    Two names of one network share its trainings. `records` has those that run or have ended, by
    number; one that failed is tried again in the next session.
    """

    def __init__(
        self, comparison: Comparison, folder: RunFolder, networks: Mapping[str, Network]
    ) -> None:
        self._comparison = comparison
        self._folder = folder
        self.records: dict[int, TrialRecord] = {}
        self._waiting: list[TrialRecord] = []
        distinct: dict[str, tuple[str, Network]] = {}
        for name, network in networks.items():
            distinct.setdefault(network.id, (name, network))
        planned = [
            (seed, name, network)
            for seed in range(comparison.seed, comparison.seed + comparison.seeds)
            for name, network in distinct.values()
        ]
        costs = {network.id: total(ledger_of(network)) for network in networks.values()}
        for number, (seed, name, network) in enumerate(planned):
            record = TrialRecord(
                number=number,
                id=network.id,
                state="running",
                network=network,
                macs=costs[network.id].macs,
                params=costs[network.id].params,
                activations=costs[network.id].activations,
                name=name,
                seed=seed,
                picks={"network": name, "seed": seed},
            )
            record = replace(record, curve=read_curve(self._folder_of(record)))
            if record.epochs >= comparison.recipe.num_epochs:
                self.records[number] = replace(record, state="complete")
            else:
                self._waiting.append(record)

    @property
    def is_finished(self) -> bool:
        return not self._waiting and all(r.state != "running" for r in self.records.values())

    def ask(self) -> Job | None:
        if not self._waiting:
            return None
        record = self._waiting.pop(0)
        self.records[record.number] = record
        weights = self._comparison.weights
        return Job(
            record.number,
            record.network,
            record.seed,
            self._folder_of(record),
            None if weights is None else Path(weights),
        )

    def report(self, number: int, curve: list[EpochDict]) -> None:
        self.records[number] = replace(self.records[number], curve=curve)

    def tell(self, number: int) -> TrialRecord:
        return self._end(number, state="complete")

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        return self._end(number, state="failed", reason=" ".join(reason.split()))

    def _end(self, number: int, state: str, reason: str | None = None) -> TrialRecord:
        self.records[number] = replace(self.records[number], state=state, reason=reason)
        return self.records[number]

    def _folder_of(self, record: TrialRecord) -> Path:
        return self._folder.trial_folder(f"{record.id}-seed{record.seed}")


def _answer(
    session: Session[Comparison], networks: Mapping[str, Network], trainings: Trainings
) -> None:
    """Prints the table and writes it to comparison.json."""
    console, folder = session.console, session.folder
    latencies = {}
    if trainings.is_finished:  # one who stops does not want to wait for it
        with console.status("measuring latency …"):
            latencies = measure_latencies(networks)
    rows = compared(session.settings, networks, trainings.records.values(), latencies)
    resolved = resolved_difference(rows, len(session.dataset.minival))
    console.print(comparison_table(rows))
    if resolved is not None:
        console.print(_in_words(resolved, session), soft_wrap=True)
    document = {
        "fidelity": session.settings.fidelity_in_words(),
        "num_minival": len(session.dataset.minival),
        "counted_at": {"resolution": RESOLUTION, "num_classes": NUM_CLASSES},
        "resolved_difference": resolved,
        "networks": [asdict(row) for row in rows],
    }
    write_atomically(folder.comparison_file, json.dumps(document, indent=2) + "\n")
    console.print(f"wrote comparison.json and trials.csv to {folder.path}", soft_wrap=True)


def measure_latencies(networks: Mapping[str, Network]) -> dict[str, dict[str, Latency]]:
    """Milliseconds of one image on one core of this machine, by network id and runtime; all are
    measured in turn.
    """
    subjects = []
    for network in {network.id: network for network in networks.values()}.values():
        model = build_network(network, NUM_CLASSES, RESOLUTION)
        exported = export_onnx(model, RESOLUTION)
        subjects.append((network.id, eager(model, RESOLUTION, batch_size=1, threads=1)))
        subjects.append((network.id, onnx(exported, RESOLUTION, batch_size=1, threads=1)))
    found: dict[str, dict[str, Latency]] = {}
    measured = measure([subject for _, subject in subjects])
    for (network_id, _), latency in zip(subjects, measured, strict=True):
        found.setdefault(network_id, {})[latency.runtime] = latency
    return found


def compared(
    settings: Comparison,
    networks: Mapping[str, Network],
    records: Iterable[TrialRecord],
    latencies: Mapping[str, Mapping[str, Latency]],
) -> list[ComparedNetwork]:
    """A row for each name, in the order given, from the trainings that are complete."""
    done = [record for record in records if record.state == "complete"]
    rows = []
    for name, network in networks.items():
        own = sorted((r for r in done if r.id == network.id), key=lambda record: record.seed)
        top1s = [record.curve[-1]["top1"] for record in own]
        speeds = [epoch["images_per_second"] for record in own for epoch in record.curve]
        costs = total(ledger_of(network))
        measured = latencies.get(network.id)
        rows.append(
            ComparedNetwork(
                name=name,
                id=network.id,
                words=network.in_words(),
                top1s=top1s,
                top1=fmean(top1s) if top1s else None,
                spread=stdev(top1s) if len(top1s) > 1 else None,
                macs=costs.macs,
                params=costs.params,
                activations=costs.activations,
                eager_ms=measured[EAGER].median_ms if measured else None,
                onnx_ms=measured[ONNX_RUNTIME].median_ms if measured else None,
                images_per_second=median(speeds) if speeds else None,
                published=settings.published.get(name),
            )
        )
    return rows


def resolved_difference(rows: Iterable[ComparedNetwork], num_minival: int) -> float | None:
    """The smallest difference between two top1 that is more than noise, in points, 95 %.

    With several seeds from their spread, pooled over the networks (Student's t); with one seed only
    from the number of minival images, which leaves the noise of training out. None where nothing is
    trained.
    """
    seeds = {row.id: row.top1s for row in rows if row.top1s}
    freedom = sum(len(top1s) - 1 for top1s in seeds.values())
    if not seeds:
        return None
    if freedom == 0:
        best = max(top1s[0] for top1s in seeds.values())
        return 2**0.5 * half_interval(best, num_minival)
    squares = sum((len(top1s) - 1) * variance(top1s) for top1s in seeds.values() if len(top1s) > 1)
    fewest = min(map(len, seeds.values()))
    return student.ppf(0.975, freedom) * (squares / freedom * 2 / fewest) ** 0.5


def _in_words(resolved: float, session: Session[Comparison]) -> str:
    settings, images = session.settings, len(session.dataset.minival)
    from_what = (
        f"{settings.seeds} seeds each, spread pooled over the networks"
        if settings.seeds > 1
        else "from the number of images alone: one seed does not tell the noise of training"
    )
    return (
        f"top1 on {images:,} minival images; differences below {resolved:.1f} points are not "
        f"resolved by this run (95 %, {from_what})"
    )
