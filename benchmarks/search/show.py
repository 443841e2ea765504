"""Tables and a figure of searches that were compared.

Medians over seeds come with 95 % bootstrap intervals over these. On the stand-in each seed is
another problem, so differences and ratios are of the same seeds: resamples keep them together.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from contest import Key, Result, best_of
from methods import METHODS, PARTS, PEERS

from gmsearch.figure_file import add_legend, new_figure, write_png
from gmsearch.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION

MARKS = (10, 20, 40, 60, 100, 200, 300)  # full-training equivalents
OURS = "gated"
NUM_RESAMPLES = 4000
FEWEST = 6  # seeds that have an interval: the range of fewer is not one of 95 %
WORKERS = 4  # of the tables that compare methods
LINES = {  # colour and dashes
    OURS: (BLACK, "-"),
    "gp": (BLUE, "-"),
    "tpe": (ORANGE, "-"),
    "tpe/asha": (ORANGE, "--"),
    "tpe/spread": (ORANGE, ":"),
    "nsga2": (GREEN, "-"),
    "nsga2/spread": (GREEN, ":"),
    "evolution": (PINK, "-"),
    "moasha": (VERMILION, "-"),
    "moasha-shipped": (VERMILION, ":"),
    "random": (GREY, "-"),
    "random/asha": (GREY, "--"),
    "random-spread": (SKY, "-"),
    "gated/off": (BLUE, "-"),
    "no-stop": (SKY, "--"),
    "gated/asha": (ORANGE, "--"),
    "no-mutation": (GREEN, "-."),
    "no-features": (PINK, ":"),
    "no-spread": (VERMILION, "-."),
}

Searches = dict[tuple[str, int], list[Result]]  # by method and workers, in the order of the seeds


def show(results: Iterable[Result], folder: Path) -> None:
    """Prints the tables of each bench, and draws its figure."""
    benches: dict[str, dict[Key, Result]] = defaultdict(dict)
    gone = set()
    for key, result in best_of(results).items():
        if result.method in METHODS:
            benches[result.bench][key] = result
        else:
            gone.add(result.method)
    if gone:
        print(f"left out, as there is no such method now: {', '.join(sorted(gone))}\n")
    for bench, found in benches.items():
        searches: Searches = defaultdict(list)
        for key in sorted(found):
            searches[key.method, key.workers].append(found[key])
        print(f"# {bench}\n")
        for table in (volumes, ratios, parts, against_random, workers, times):
            print("\n".join(table(searches)) + "\n")
        file = folder / f"{bench}.png"
        draw(searches, bench, file)
        print(f"wrote {file}\n")


def volumes(searches: Searches) -> list[str]:
    marks = [f"{mark}" for mark in MARKS]
    lines = _head("Hypervolume (points of top1) after full-training equivalents, median over seeds")
    lines += _row("method", "workers", "seeds", *marks) + _row(*["---"] * (3 + len(marks)))
    for method, num_workers in _ordered(searches):
        results = searches[method, num_workers]
        curves = _curves(results, np.array(MARKS, float))
        cells = [_interval(column) for column in curves.T]
        lines += _row(METHODS[method].words, num_workers, len(results), *cells)
    return lines


def ratios(searches: Searches) -> list[str]:
    """What ours needs for the level of each peer at its end; where some seeds were to go farther
    than others, of all of them and of those. Where networks ran out, the end is that of the first.
    """
    lines = _head("How many times fewer full trainings ours needs for what a peer has at its end")
    lines += _row("peer", "seeds", "after", "its median", "ours needs", "times fewer")
    lines += _row(*["---"] * 6)
    for peer in PEERS + ("moasha-shipped",):
        pairs = list(zip(*_paired(searches, OURS, peer), strict=True))
        for wish in sorted({other.trainings for _, other in pairs}):
            far = [pair for pair in pairs if pair[1].trainings >= wish]
            ours, theirs = ([pair[place] for pair in far] for place in (0, 1))
            lines += _ratio(METHODS[peer].words, ours, theirs, wish)
    return lines


def _ratio(words: str, ours: Sequence[Result], theirs: Sequence[Result], wish: int) -> list[str]:
    after = min(wish, *(result.end for result in theirs))
    grid = _grid(ours)
    own, level = _curves(ours, grid), _curves(theirs, np.array([float(after)]))
    needs = _needs(own, level, grid, np.arange(len(ours))[None])[0]
    resampled = after / _needs(own, level, grid, _resamples(len(ours)))
    low, high = np.percentile(resampled, (2.5, 97.5))
    never = f"over {grid[-1]:.0f}"
    told = never if np.isinf(needs) else f"{needs:.0f}"
    ratio = "not told" if np.isinf(needs) else f"{after / needs:.1f}"
    if len(ours) >= FEWEST:
        ratio += f" ({f'needs {never}' if low == 0 else f'{low:.1f}'} to {high:.1f})"
    return _row(words, len(ours), after, f"{np.median(level):.2f}", told, ratio)


def parts(searches: Searches) -> list[str]:
    """What each part is worth: the median difference of the same seeds."""
    lines = _head("Hypervolume that is lost with a part switched off, median over the same seeds")
    marks = [mark for mark in MARKS if mark <= 100]
    lines += _row("ours", "seeds", *map(str, marks)) + _row(*["---"] * (2 + len(marks)))
    for part in PARTS:
        ours, without = _paired(searches, OURS, part)
        if ours:
            at = np.array(marks, float)
            lost = _curves(ours, at) - _curves(without, at)
            cells = [_interval(column, "+.2f") for column in lost.T]
            lines += _row(METHODS[part].words, len(ours), *cells)
    return lines


def against_random(searches: Searches) -> list[str]:
    lines = _head("Seeds in which a search is below random after the same spending")
    lines += _row("method", "seeds", *map(str, MARKS)) + _row(*["---"] * (2 + len(MARKS)))
    for method, num_workers in _ordered(searches):
        mine, random = _paired(searches, method, "random", num_workers)
        if not mine or method == "random":
            continue
        at = np.array(MARKS, float)
        gap = _curves(mine, at) - _curves(random, at)
        cells = [_count(column) for column in gap.T]
        lines += _row(f"{METHODS[method].words}, {num_workers} workers", len(mine), *cells)
    return lines


def workers(searches: Searches) -> list[str]:
    lines = _head("More workers: median difference of the same seeds")
    for method, many in _ordered(searches):
        if many != WORKERS and (mine := _paired(searches, method, method, many, WORKERS))[0]:
            at = np.array([mark for mark in MARKS if mark <= 100], float)
            gap = _curves(mine[0], at) - _curves(mine[1], at)
            cells = [
                f"{mark:.0f}: {_interval(g, '+.2f')}" for mark, g in zip(at, gap.T, strict=True)
            ]
            words = f"{METHODS[method].words}, {many} workers beside {WORKERS}: "
            lines.append(words + "; ".join(cells))
    return lines


def times(searches: Searches) -> list[str]:
    lines = _head("Time of the CPU, and what became of the trainings (of the last seed)")
    lines += _row(
        "method",
        "workers",
        "a proposal, median",
        "95 %",
        "beside these, by epoch",
        "all, by training's worth",
        "idle, end included",
        "states",
    ) + _row(*["---"] * 8)
    for method, num_workers in _ordered(searches):
        results = searches[method, num_workers]
        asks = np.concatenate([result.ask_ms for result in results])
        states = ", ".join(f"{n} {state}" for state, n in sorted(results[-1].states.items()))
        lines += _row(
            METHODS[method].words,
            num_workers,
            f"{np.median(asks):.0f} ms",
            f"{np.percentile(asks, 95):.0f} ms",
            f"{np.median([result.report_ms for result in results]):.1f} ms",
            f"{np.median([_deciding(result) for result in results]):.0f} ms",
            f"{np.median([result.idle for result in results]):.1%}",
            states,
        )
    return lines


def draw(searches: Searches, bench: str, file: Path) -> None:
    """Medians and their intervals: the peers at the left, our parts at the right, the latter of
    seeds that all of them have.
    """
    figure = new_figure(12, 8)
    axes = figure.subplots(1, 2, sharey=True)
    names = ((OURS, *PEERS, "moasha-shipped"), (OURS, *PARTS))
    for axis, methods, title in zip(axes, names, ("peers", "one part off each"), strict=True):
        found = {m: searches[m, WORKERS] for m in methods if (m, WORKERS) in searches}
        if found and methods[1:] == PARTS:
            seeds = set.intersection(
                *({each.seed for each in results} for results in found.values())
            )
            shared = {m: [r for r in results if r.seed in seeds] for m, results in found.items()}
            found = shared if seeds else {}
        entries = []
        for method, results in found.items():
            colour, dashes = LINES[method]
            grid = _grid(results)
            curves = _curves(results, grid)
            low, high = _bounds(curves)
            wide = 2.5 if method == OURS else 1.5
            label = f"{METHODS[method].words} ({len(results)})"
            [line] = axis.plot(grid, np.median(curves, axis=0), dashes, color=colour, lw=wide)
            entries.append((label, line))
            axis.fill_between(grid, low, high, color=colour, alpha=0.1, lw=0)
        axis.set_xscale("log")
        axis.set_xlim(left=min([8.0] + [results[0].end / 2 for results in found.values()]))
        ticks = [mark for mark in MARKS if mark <= axis.get_xlim()[1]]
        axis.set_xticks(ticks, [f"{mark}" for mark in ticks])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("spent, in full trainings")
        axis.set_title(f"{bench}: {title}")
        axis.grid(alpha=0.3)
        add_legend(
            axis,
            entries,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),  # below: curves fill the whole of the axes
            fontsize=8,
            frameon=False,
            title="median, 95 % interval (seeds)",
        )
    axes[0].set_ylabel("hypervolume, points of top1")
    drawn = [results for (_, many), results in searches.items() if many == WORKERS]
    at_mark = [median for each in drawn if np.isfinite(median := _median_at(each, MARKS[0]))]
    if at_mark:  # what comes before is not drawn
        axes[0].set_ylim(bottom=min(at_mark) - 2)
    write_png(figure, file)


def _head(text: str) -> list[str]:
    return [f"**{text}**", ""]


def _row(*cells: object) -> list[str]:
    return ["| " + " | ".join(map(str, cells)) + " |"]


def _ordered(searches: Searches) -> list[tuple[str, int]]:
    places = list(METHODS)
    return sorted(searches, key=lambda key: (places.index(key[0]), key[1]))


def _paired(
    searches: Searches, one: str, other: str, of_one: int = WORKERS, of_other: int | None = None
) -> tuple[list[Result], list[Result]]:
    """The searches of two methods with the same seeds."""
    first = {result.seed: result for result in searches.get((one, of_one), [])}
    workers = of_one if of_other is None else of_other
    second = {result.seed: result for result in searches.get((other, workers), [])}
    seeds = sorted(first.keys() & second.keys())
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def _grid(results: Sequence[Result]) -> np.ndarray:
    return np.arange(1.0, min(result.end for result in results) + 1)


def _curves(results: Sequence[Result], at: np.ndarray) -> np.ndarray:
    """(seeds, at) hypervolumes."""
    return np.array([result.at(at) for result in results])


def _resamples(size: int) -> np.ndarray:
    """(resamples, size) indices."""
    return np.random.default_rng(0).integers(0, size, (NUM_RESAMPLES, size))


def _bounds(values: np.ndarray) -> np.ndarray:
    """The ends of the 95 % interval of the median of (seeds, …)."""
    medians = np.median(values[_resamples(len(values))], axis=1)
    return np.percentile(medians, (2.5, 97.5), axis=0)


def _median_at(results: Sequence[Result], mark: float) -> float:
    return float(np.median(_curves(results, np.array([mark]))))


def _deciding(result: Result) -> float:
    """Milliseconds of all that a search thinks, for the epochs of a full training."""
    spent = sum(result.ask_ms) + result.report_ms * result.epochs
    return spent * result.num_epochs / result.epochs


def _count(gaps: np.ndarray) -> str:
    """How many are below 0, of those that are known."""
    known = gaps[np.isfinite(gaps)]
    return f"{(known < 0).sum()}{_of(known, gaps)}" if known.size else ""


def _interval(values: np.ndarray, form: str = ".2f") -> str:
    """The median of those that are known, and its interval."""
    known = values[np.isfinite(values)]
    if not known.size:
        return ""
    text = f"{np.median(known):{form}}"
    if len(known) >= FEWEST:
        low, high = _bounds(known)
        text += f" ({low:{form}} to {high:{form}})"
    return text + _of(known, values)


def _of(known: np.ndarray, values: np.ndarray) -> str:
    return f", {len(known)} seeds" if len(known) < len(values) else ""


def _needs(own: np.ndarray, level: np.ndarray, grid: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(resamples,) the first of `grid` where the median of (seeds, grid) reaches that of the
    (seeds, 1) levels; infinite where it does not.
    """
    medians = np.median(own[index], axis=1)
    reached = medians >= np.median(level[index], axis=1)
    return np.where(reached.any(1), grid[reached.argmax(1)], np.inf)
