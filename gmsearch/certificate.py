"""What a cheap training tells of a fuller one: RUN/proxy.json, as a table and in words."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from gmsearch.errors import SettingsError
from gmsearch.files import write_atomically
from gmsearch.ranking import Tau, kendall, regret, tau_of_best

SEARCH, FULLER, MACS = "search", "fuller", "MACs alone"
SHARES = {"third": 1 / 3, "fifth": 1 / 5}
TOPS = (1, 3)


@dataclass(frozen=True)
class Trained:
    """Networks trained at one fidelity; `top1` is in per cent, in the order of the networks."""

    name: str
    words: str
    epochs: int
    train_share: float
    resolution: int
    top1: list[float]
    spent: float  # MACs of a forward pass x images x epochs, of all networks together
    seconds: float  # of training and evaluation, measured, of all networks together


@dataclass(frozen=True)
class Proxy:
    """How one fidelity ranks networks as the fuller one does."""

    name: str
    words: str
    tau: float
    low: float
    high: float
    best: dict[str, tuple[int, float]]  # third and fifth: networks in it, and tau among them
    regret: dict[str, float]  # by k, in points of the fuller top1
    saved: float  # share of the fuller spending
    seconds_saved: float  # share of its measured time

    @property
    def interval(self) -> Tau:
        return Tau(self.tau, self.low, self.high)


@dataclass(frozen=True)
class Certificate:
    """The proxies of one choice of networks, the search's own first."""

    ids: list[str]
    macs: list[int]  # where the space counts them
    num_minival: int
    chosen: str  # how the networks were, in words
    trained: list[Trained]  # the fuller last
    proxies: list[Proxy]

    def in_words(self) -> str:
        """The search's own proxy in a sentence."""
        own, search, fuller = self.proxies[0], self.trained[0], self.trained[-1]
        epochs = "epoch ranks" if search.epochs == 1 else "epochs rank"
        if math.isnan(own.tau):
            return f"the search's {search.epochs} {epochs} nothing: all top1 are equal"
        told = (
            f"the search's {search.epochs} {epochs} networks as {fuller.epochs} do: tau "
            f"{own.tau:.2f} ({own.low:.2f} to {own.high:.2f}, {len(self.ids)} networks)"
        )
        if own.interval.includes_zero:
            told += "; the interval includes 0: they may say nothing of the fuller ranking"
        return told


def certify(
    ids: Sequence[str],
    macs: Sequence[int],
    trained: Sequence[Trained],
    *,
    num_minival: int,
    chosen: str,
    seed: int = 0,
) -> Certificate:
    """Judges each fidelity by the last of `trained`, and beside them MACs, which cost nothing."""
    *cheap, fuller = trained

    def judge(name: str, words: str, values: Sequence[float], part: float, time: float) -> Proxy:
        tau = kendall(values, fuller.top1, seed=seed)
        return Proxy(
            name,
            words,
            *tau,
            best={name: tau_of_best(values, fuller.top1, s) for name, s in SHARES.items()},
            regret={str(k): regret(values, fuller.top1, k) for k in TOPS},
            saved=1 - part,
            seconds_saved=1 - time,
        )

    proxies = [
        judge(t.name, t.words, t.top1, t.spent / fuller.spent, t.seconds / fuller.seconds)
        for t in cheap
    ]
    proxies.append(judge(MACS, "no training: more MACs are better", [*map(float, macs)], 0.0, 0.0))
    return Certificate(list(ids), list(macs), num_minival, chosen, list(trained), proxies)


def write_certificate(certificate: Certificate, folder: Path) -> None:
    """Writes proxy.json, all of it, and proxy.csv, a row for each network."""
    told = json.dumps(_without_nan(asdict(certificate)), indent=1)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    names = [f"top1_{trained.name}" for trained in certificate.trained]
    writer.writerow(("id", "macs", *names))
    top1s = (trained.top1 for trained in certificate.trained)
    writer.writerows(zip(certificate.ids, certificate.macs, *top1s, strict=True))
    write_atomically(folder / "proxy.csv", rows.getvalue())
    write_atomically(folder / "proxy.json", told + "\n")


def read_certificate(folder: Path) -> Certificate | None:
    """What proxy.json has; None before there is one. Raises SettingsError for another file."""
    file = folder / "proxy.json"
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        trained = [Trained(**each) for each in told["trained"]]
        if not trained or not told["proxies"]:
            raise ValueError
        proxies = [_proxy(each) for each in told["proxies"]]
        return Certificate(**{**told, "trained": trained, "proxies": proxies})
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        raise SettingsError(
            f"{file}: not what `gmsearch proxy` wrote; say that again, or remove the file"
        ) from None


def _proxy(told: dict) -> Proxy:
    numbers = {name: _number(told[name]) for name in ("tau", "low", "high")}
    best = {name: (count, _number(tau)) for name, (count, tau) in told["best"].items()}
    return Proxy(**{**told, **numbers, "best": best})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _without_nan(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def certificate_table(certificate: Certificate) -> Table:
    """A line for each proxy."""
    fuller = certificate.trained[-1]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"ranks {len(certificate.ids)} networks as {fuller.words} does",
        title_justify="left",
        caption="tau: Kendall's tau-b, 95 % by bootstrap over the networks; lost: points of the "
        "fuller top1, where only the best 1 or 3 of the proxy are trained fully",
        caption_justify="left",
    )
    counts = {name: certificate.proxies[0].best[name][0] for name in SHARES}
    heads = [f"best {name} ({count})" for name, count in counts.items()]
    table.add_column("proxy")
    table.add_column("is")
    for head in ("tau", "95 %", *heads, "lost by 1", "by 3", "MACs saved", "time saved"):
        table.add_column(head, justify="right", no_wrap=True)
    for proxy in certificate.proxies:
        table.add_row(
            proxy.name,
            proxy.words,
            _told(proxy.tau),
            "" if math.isnan(proxy.tau) else f"{proxy.low:.2f} to {proxy.high:.2f}",
            *(_told(proxy.best[name][1]) for name in SHARES),
            *(f"{proxy.regret[str(k)]:.1f}" for k in TOPS),
            f"{proxy.saved:.0%}",
            f"{proxy.seconds_saved:.0%}",
        )
    return table


def _told(tau: float) -> str:
    return "" if math.isnan(tau) else f"{tau:.2f}"
