"""What a paper claims of its networks, and what a run here says of it.

A file of `reproductions/` has the networks, the published figures and the orderings.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gmsearch.contrasts import contrast, holm, pooled_spread
from gmsearch.errors import SettingsError
from gmsearch.radii import is_band, radius_of
from gmsearch.reading import read_yaml

SHIPPED = ("frequency",)
TOP1 = "top1"
HOLDS, FAILS, OPEN, UNTESTED = VERDICTS = ("holds", "does not hold", "not resolved", "not tested")
LEVEL = 0.05  # of the corrected p-value, below which a difference is resolved

Hits = Mapping[str, Mapping[str, np.ndarray]]  # by network and measure, bool (seeds, images)


class Ordering(BaseModel):
    """One network above another, on some measures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    higher: str
    lower: str
    measures: tuple[str, ...] = Field(min_length=1)


class Reproduction(BaseModel):
    """What is to be trained, and what a paper says that will come out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    networks: dict[str, str]  # the name in tables, and WHAT of the command line
    published: dict[str, dict[str, float]]  # by network and measure, in per cent
    claims: tuple[Ordering, ...]

    def model_post_init(self, _context: Any) -> None:
        named = [name for each in self.claims for name in (each.higher, each.lower)]
        for name in [*named, *self.published]:
            if name not in self.networks:
                raise SettingsError(f"{name!r} is none of the networks")
        told = [measure for row in self.published.values() for measure in row]
        for measure in [*told, *(m for each in self.claims for m in each.measures)]:
            if measure != TOP1 and not is_band(measure):
                raise SettingsError(
                    f"{measure!r} is no measure; write top1, or high12 and the like"
                )

    @property
    def measures(self) -> list[str]:
        """All that claims are about, top1 first."""
        found = {measure: None for each in self.claims for measure in each.measures}
        return sorted(found, key=lambda measure: measure != TOP1)

    @property
    def radii(self) -> tuple[float, ...]:
        """Where its bands are cut."""
        return tuple(sorted({radius_of(name) for name in self.measures if name != TOP1}))


def read_reproduction(name: str) -> Reproduction:
    """A reproduction that ships, by its name. Raises SettingsError."""
    if name not in SHIPPED:
        raise SettingsError(f"reproduce {name!r}: no such claims; give {' or '.join(SHIPPED)}")
    path = Path(str(resources.files("gmsearch") / "reproductions" / f"{name}.yaml"))
    return read_yaml(path, SettingsError).parse(Reproduction)


@dataclass(frozen=True)
class Judged:
    """A claim and what was measured: `difference` in points with its 95 % interval, None where a
    network has no two trainings; `p` is corrected for all claims.
    """

    higher: str
    lower: str
    measure: str
    verdict: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    published: float | None  # the difference of the published figures

    @property
    def words(self) -> str:
        return f"{self.higher} > {self.lower}"


def judge(reproduction: Reproduction, hits: Hits) -> list[Judged]:
    """Every claim as a planned contrast, in the order of the file.

    A claim is resolved where its p-value, after Holm's correction for all of them, is below LEVEL;
    it then holds or does not, by the sign. One of a network without hits is not tested, and is
    corrected for all the same, so that the verdicts of others do not hang on what failed.
    """
    spreads = {m: pooled_spread(own[m] for own in hits.values()) for m in reproduction.measures}
    planned = [
        (each.higher, each.lower, measure)
        for each in reproduction.claims
        for measure in each.measures
    ]
    found = {
        plan: contrast(hits[plan[0]][plan[2]], hits[plan[1]][plan[2]], spreads[plan[2]])
        for plan in planned
        if plan[0] in hits and plan[1] in hits
    }
    ps = [found[plan].p if plan in found else 1.0 for plan in planned]
    corrected = dict(zip(planned, holm(ps), strict=True))
    judged = []
    for plan in planned:
        higher, lower, measure = plan
        figures = [reproduction.published.get(name, {}).get(measure) for name in (higher, lower)]
        published = None if None in figures else figures[0] - figures[1]  # type: ignore[operator]
        if plan in found:
            difference, low, high, _ = found[plan]
            p = corrected[plan]
            verdict = OPEN if p >= LEVEL else HOLDS if difference > 0 else FAILS
            judged.append(Judged(*plan, verdict, difference, low, high, p, published=published))
        else:
            judged.append(Judged(*plan, UNTESTED, None, None, None, None, published=published))
    return judged


def claims_csv(judged: Sequence[Judged]) -> str:
    rows = io.StringIO()
    writer = csv.DictWriter(rows, list(asdict(judged[0])), lineterminator="\n")
    writer.writeheader()
    for each in judged:
        told = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(each).items()}
        writer.writerow(told)
    return rows.getvalue()
