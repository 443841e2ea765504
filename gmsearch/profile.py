"""What one network costs and how fast it is here: `gmsearch profile`."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gmsearch.cost import Cost, LayerCost, total
from gmsearch.errors import ExportError
from gmsearch.fvcore_count import FvcoreCount, explain, fvcore_count
from gmsearch.gmnet import VARIANTS, gmnet
from gmsearch.latency import Latency, Subject, eager, measure, onnx
from gmsearch.network import Network, Peer
from gmsearch.onnx_export import export_onnx
from gmsearch.references import Reference, published_macs, read_references
from gmsearch.space import format_size
from gmsearch.zoo import build_deployed, check_network, ledger_of

BYTES = 4  # of an element in fp32


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One network on square images: our ledger, fvcore's count, published figures, latency."""

    name: str
    network: Network
    resolution: int
    num_classes: int
    rows: list[LayerCost]
    fvcore: FvcoreCount
    published: list[Reference]
    latencies: list[Latency]
    remarks: list[str]  # on what could not be done

    @property
    def cost(self) -> Cost:
        return total(self.rows)


def profile(
    network: Network, *, name: str, resolution: int, num_classes: int, batch_size: int, threads: int
) -> Profile:
    """Counts a network, and times it for one image and for `batch_size`, on the CPU with `threads`
    threads and on the GPU where there is one. Raises SettingsError.
    """
    check_network(network, num_classes, resolution)
    model = build_deployed(network, num_classes, resolution)
    subjects, remarks = _subjects(model, resolution, batch_size, threads)
    return Profile(
        name=name,
        network=network,
        resolution=resolution,
        num_classes=num_classes,
        rows=ledger_of(network, resolution=resolution, num_classes=num_classes),
        fvcore=fvcore_count(model, resolution),
        published=_published(network, resolution),
        latencies=measure(subjects),
        remarks=remarks,
    )


def _published(network: Network, resolution: int) -> list[Reference]:
    """What timm, or the paper, says of the network at this size."""
    if isinstance(network, Peer):
        return published_macs(network.name, resolution)
    names = {v.replace("gmnet_s", "GmNet-S") for v in VARIANTS if gmnet(v) == network}
    return [r for r in read_references() if r.name in names and r.image_size == resolution]


def _subjects(
    model: torch.nn.Module, resolution: int, batch_size: int, threads: int
) -> tuple[list[Subject], list[str]]:
    """What is to be timed, and remarks on what cannot be."""
    sizes = sorted({1, batch_size})
    subjects = [eager(model, resolution, images, threads) for images in sizes]
    remarks = []
    try:
        exported = export_onnx(model, resolution)
    except ExportError as error:
        remarks.append(str(error))
    else:
        subjects += [onnx(exported, resolution, images, threads) for images in sizes]
    if torch.cuda.is_available():
        subjects += [eager(model, resolution, images, device="cuda") for images in sizes]
    return subjects, remarks


def to_dict(found: Profile) -> dict[str, Any]:
    """Plain numbers: MACs, params, and elements in `activations` (outputs of convolutions and
    linear layers) and `memory` (all that is written); milliseconds in `latency`.
    """
    return {
        "network": found.name,
        "id": found.network.id,
        "resolution": found.resolution,
        "num_classes": found.num_classes,
        **found.cost._asdict(),
        "fvcore": {
            "total": found.fvcore.total,
            "by_operator": found.fvcore.by_operator,
            "difference": explain(found.fvcore, found.cost.macs),
        },
        "published": [asdict(reference) for reference in found.published],
        "latency": [
            {**asdict(latency), "images_per_second": latency.images_per_second}
            for latency in found.latencies
        ],
        "remarks": found.remarks,
        "layers": [_layer(row) for row in found.rows],
    }


def _layer(row: LayerCost) -> dict[str, Any]:
    """A layer with the keys of the totals, of which the `memory` of all layers is one."""
    return {
        "name": row.name,
        "kind": row.kind,
        "macs": row.macs,
        "params": row.params,
        "memory": row.activations,
    }


def to_tables(found: Profile) -> Group:
    """The ledger, its totals beside those of others, and the latencies, for a console."""
    cost = found.cost
    lines = [
        f"{found.name}: {found.network.in_words()}; "
        f"{found.resolution} px, {found.num_classes:,} classes",
        f"MACs {cost.macs:,} ({format_size(cost.macs)}), params {cost.params:,} "
        f"({format_size(cost.params)}), activations {format_size(cost.activations)}",
        f"written by all layers, one image in fp32: {cost.memory * BYTES / 1e6:.1f} MB",
        explain(found.fvcore, cost.macs),
        *map(_published_in_words, found.published),
        *found.remarks,
    ]
    return Group(_ledger_table(found.rows), Text("\n".join(lines)), _latency_table(found.latencies))


def _published_in_words(reference: Reference) -> str:
    assert reference.macs is not None
    return (
        f"published: {reference.name}, top1 {reference.top1}, {format_size(reference.macs)} MACs "
        f"({'; '.join(reference.flags)})"
    )


def _ledger_table(rows: Iterable[LayerCost]) -> Table:
    """A column for each kind of work: MACs of convolutions and linear layers, elements of norms and
    of all that is element-wise.
    """
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    columns = ("conv MACs", "linear MACs", "norm", "element-wise", "params", "memory KB")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    sums = [0.0] * len(columns)
    for row in rows:
        place = {"conv": 0, "linear": 1, "norm": 2}.get(row.kind, 3)
        figures = [0.0] * len(columns)
        figures[place] = row.macs if place < 2 else row.activations
        figures[4:] = row.params, row.activations * BYTES / 1e3
        sums = [sum(pair) for pair in zip(sums, figures, strict=True)]
        table.add_row(row.name, *map(_figure, figures))
    table.add_section()
    table.add_row("total", *map(_figure, sums))
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value else ""


def _latency_table(latencies: Iterable[Latency]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("runtime", no_wrap=True)
    for column in ("images", "threads", "ms", "quartiles", "images/s", "repeats"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("on")
    for each in latencies:
        table.add_row(
            each.runtime,
            str(each.batch_size),
            "" if each.threads is None else str(each.threads),
            f"{each.median_ms:.2f}",
            f"{each.low_ms:.2f}-{each.high_ms:.2f}",
            f"{each.images_per_second:,.0f}",
            str(each.repeats),
            each.device,
        )
    return table
