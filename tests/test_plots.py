"""What is drawn is what is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_runs import BUDGET, curve, make_run

from gmsearch.history import History, read_history
from gmsearch.pareto import hypervolume
from gmsearch.picture import front_picture
from gmsearch.plots import front_figure, hypervolume_figure
from gmsearch.record import front_of, interval_of
from gmsearch.references import read_references, select

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
TOP1S = [70.0, 50.0, 20.0, 60.0, 44.0, 30.0, 41.0, 10.0]


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> History:
    folder, study = make_run(tmp_path_factory.mktemp("plots") / "r", TOP1S)
    failed, running = study.ask().number, study.ask().number
    study.report(failed, curve(99.0))
    study.tell_failed(failed, "why")
    trial = folder.trial_folder(study.records[running].id)
    trial.mkdir(parents=True)
    (trial / "metrics.jsonl").write_text(json.dumps(curve(98.0)[0]) + "\n")
    return read_history(folder.path)


def traces(figure) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data if trace.legend != "legend2"}


def points(*drawn) -> set[tuple[float, float]]:
    return {pair for each in drawn for pair in zip(each.x, each.y, strict=True)}


def known(records, cost: str = "macs") -> set[tuple[float, float]]:
    return {(getattr(record, cost) / 1e6, record.top1) for record in records}


def test_every_complete_trial_is_drawn_once_and_no_other(history):
    dots = [t for t in traces(front_figure(history)).values() if t.mode == "markers"]
    assert points(*dots) == known(history.complete)
    assert sum(len(each.x) for each in dots) == len(TOP1S)


def test_the_line_is_the_front_by_cost(history):
    (line,) = (trace for trace in front_figure(history).data if trace.mode == "lines")
    best = sorted(front_of(history.records, ("top1", "macs")), key=lambda each: each.macs)
    assert list(zip(line.x, line.y, strict=True)) == [(r.macs / 1e6, r.top1) for r in best]
    assert line.line.shape == "hv"


def test_hollow_points_are_those_whose_interval_overlaps_a_neighbours(history):
    figure = front_figure(history)
    best = sorted(front_of(history.records, ("top1", "macs")), key=lambda each: each.macs)
    tied = set()
    for one, two in zip(best, best[1:], strict=False):
        if interval_of(one.top1, 500).high >= interval_of(two.top1, 500).low:
            tied |= {one.id, two.id}
    hollow = [t for t in figure.data if t.mode == "markers" and t.marker.color == "white"]
    assert all("a tie" in trace.name for trace in hollow)
    assert {text[3:13] for trace in hollow for text in trace.hovertext} == tied
    assert 0 < len(tied) < len(best)  # the set has both kinds


def test_bars_are_the_intervals_and_unknown_ones_are_not_drawn(history):
    for trace in traces(front_figure(history)).values():
        if trace.error_y.array is not None:
            lows, highs = zip(*(interval_of(top1, 500) for top1 in trace.y), strict=True)
            assert list(np.add(trace.y, trace.error_y.array)) == pytest.approx(list(highs))
            assert list(np.subtract(trace.y, trace.error_y.arrayminus)) == pytest.approx(list(lows))
    unknown = front_figure(replace(history, data=None))
    assert all(trace.error_y.array is None for trace in unknown.data)
    assert not any("a tie" in trace.name for trace in unknown.data)
    assert "intervals are not known" in unknown.layout.title.text


def test_a_hover_tells_id_top1_costs_and_gates(history):
    texts = [text for t in traces(front_figure(history)).values() for text in t.hovertext or ()]
    (text,) = (text for text in texts if history.records[3].id in text)
    assert "60.0 % (55.6 to 64.2)" in text and "MACs" in text and "params" in text
    assert history.records[3].words.split("; ")[0] in text


def test_baselines_are_triangles(history):
    for trace in traces(front_figure(history)).values():
        is_baseline = trace.name.startswith(("GmNet", "no gates"))
        assert is_baseline == (trace.marker.symbol in ("triangle-up", "triangle-down"))


def test_published_networks_have_an_axis_of_their_own(tmp_path):
    folder, _ = make_run(tmp_path / "r", [60.0, 50.0, 40.0], budget=300_000_000)
    figure = front_figure(read_history(folder.path))
    published = [trace for trace in figure.data if trace.legend == "legend2"]
    ours = {trace.yaxis for trace in figure.data if trace.legend != "legend2"}
    assert {trace.yaxis for trace in published} & ours == set()
    near = select(read_references(), macs=(150_000_000, 450_000_000))
    assert sum(len(trace.x) for trace in published) == len(near) > 100
    assert points(*published) == {(each.macs / 1e6, each.top1) for each in near}
    assert figure.layout.yaxis.title.text == "ImageNet top1, %"
    assert figure.layout.yaxis2.title.text == "top1 on minival, %"


def test_the_hypervolume_grows_with_all_epochs_that_were_trained(history):
    (line,) = hypervolume_figure(history).data
    epochs = [0, *(2 * i for i in range(1, 9)), 17, 18]
    expected = [0.0]
    for number in range(len(TOP1S)):
        done = [(r.top1, r.macs) for r in history.complete if r.number <= number]
        expected.append(hypervolume(done, BUDGET))
    expected += [expected[-1], expected[-1]]
    drawn = [line.y[sum(x <= epoch for x in line.x) - 1] for epoch in epochs]
    assert drawn == pytest.approx(expected)
    assert (line.x[0], line.x[-1]) == (0, 18) and set(line.x) <= set(epochs)


def test_other_runs_are_beside_it_within_the_same_limit(history, tmp_path):
    folder, _ = make_run(tmp_path / "random", [55.0, 45.0], sampler="random", budget=20_000_000)
    other = read_history(folder.path)
    one, two = hypervolume_figure(history, [other]).data
    assert (one.name, two.name) == ("r", "random") and one.line.color != two.line.color
    done = [(record.top1, record.macs) for record in other.complete]
    assert two.y[-1] == pytest.approx(hypervolume(done, BUDGET))


@pytest.mark.parametrize("objectives", [("top1", "params"), ("top1", "activations", "macs")])
def test_other_costs_have_their_own_axis_and_limit(tmp_path, objectives):
    folder, _ = make_run(tmp_path / "r", [60.0, 50.0, 40.0, 45.0], objectives=objectives)
    history = read_history(folder.path)
    figure = front_figure(history)
    label = {"params": "million params", "activations": "million activations"}[objectives[1]]
    assert label in {axis.title.text for axis in figure.select_xaxes()}
    (line,) = hypervolume_figure(history).data
    assert 0 < line.y[-1] <= 60
    on_axes = known(front_of(history.records, objectives[:2]), objectives[1])
    (drawn,) = (each for each in figure.data if each.mode == "lines")
    assert points(drawn) == on_axes
    marked = [t for name, t in traces(figure).items() if name != "searched" and t.hovertext]
    ids = {text[3:13] for trace in marked for text in trace.hovertext}
    baselines = {record.id for record in history.complete if record.baseline}
    assert ids == {record.id for record in history.front} | baselines
    assert ("blue: the front over" in figure.layout.title.text) == (len(objectives) > 2)


def test_all_of_a_front_over_three_objectives_is_marked(tmp_path):
    """The same in the figure and in the picture, though only a part of it is on the line."""
    said = ("top1", "activations", "params")
    folder, _ = make_run(tmp_path / "r", TOP1S, objectives=said, sampler="random")
    history = read_history(folder.path)
    on_line = front_of(history.records, said[:2])
    assert len(history.front) > len(on_line)
    marked = [t for t in front_figure(history).data if (t.name or "").startswith("front: a tie")]
    marked += [t for t in front_figure(history).data if t.name == "front" and t.mode == "markers"]
    wanted = [record for record in history.front if not record.baseline]
    assert points(*marked) == known(wanted, "activations")
    [axes] = front_picture(history.experiment, history.records, 500).axes
    assert "blue: the front over activations, params; " in axes.get_title()
    assert dots_of(axes) == dots_of_page(front_figure(history))


def dots_of(axes) -> dict[str, tuple[bool, set[tuple[float, float]]]]:
    """By label, whether the dots of a picture are hollow, and where they are."""
    return {
        part.get_label(): (
            bool((part.get_facecolor() == 1).all()),
            {tuple(each) for each in part.get_offsets().tolist()},
        )
        for part in axes.collections
        if not part.get_label().startswith("_")
    }


def dots_of_page(figure) -> dict[str, tuple[bool, set[tuple[float, float]]]]:
    return {
        trace.name: (trace.marker.color == "white", points(trace))
        for trace in traces(figure).values()
        if trace.mode == "markers"
    }


@pytest.mark.parametrize("top1s", [TOP1S, [90.0, 80.0, 88.5, 40.0], [90.0, 99.0, 88.5, 98.0]])
def test_the_picture_has_the_dots_of_the_page(tmp_path, top1s):
    """Baselines that tie on the front are hollow in both, and are no second dot of the front."""
    folder, _ = make_run(tmp_path / "r", top1s)
    history = read_history(folder.path)
    figure = front_picture(history.experiment, history.records, 500)
    drawn = dots_of(figure.axes[0])
    assert drawn == dots_of_page(front_figure(history))
    assert sum(len(places) for _, places in drawn.values()) == len(top1s)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == list(drawn)
    if top1s is not TOP1S:
        tied_baseline = "GmNet: a tie" if top1s[0] > top1s[1] else "no gates: a tie"
        assert drawn[tied_baseline][0]


def test_a_place_of_the_front_has_one_label(history):
    first, *others = history.front
    twins = [replace(first, number=90 + i, id=f"twin{i}") for i in range(2)]
    records = [*history.records, *twins]
    [axes] = front_picture(history.experiment, records, 500).axes
    labels = {text.get_text(): tuple(text.xy) for text in axes.texts}
    ids = {text: place for text, place in labels.items() if not text.startswith("budget")}
    assert set(ids) == {f"{first.id} and 2 more", *(record.id for record in others)}
    assert len(set(ids.values())) == len(ids)
    assert ids[f"{first.id} and 2 more"] == (first.macs / 1e6, first.top1)


def test_a_limit_hangs_on_the_experiment_alone(tmp_path):
    """As a run goes on, the hypervolume of what it had stays what it was."""
    folder, study = make_run(tmp_path / "r", [60.0, 50.0], objectives=("top1", "params"))
    before = read_history(folder.path)
    while study.records[number := study.ask().number].params <= max(
        record.params for record in before.records
    ):
        pass
    study.report(number, curve(55.0))
    study.tell(number)
    after = read_history(folder.path)
    assert after.growth(after.limit)[:2] == before.growth(before.limit)
    assert all(record.params <= after.limit for record in after.records if not record.baseline)


def test_a_run_without_a_result_says_so(tmp_path):
    folder, study = make_run(tmp_path / "r", [])
    for _ in range(2):
        history = read_history(folder.path)
        for figure in (front_figure(history), hypervolume_figure(history)):
            assert (
                "no trial is complete yet"
                in json.loads(figure.to_json())["layout"]["annotations"][-1].values()
            )
        study.ask()


def test_bars_near_the_ends_have_two_sides_and_stay_within_0_and_100(tmp_path):
    folder, _ = make_run(tmp_path / "r", [100.0, 98.0, 0.0], num_minival=100)
    history = read_history(folder.path)
    for trace in traces(front_figure(history)).values():
        if trace.error_y.array is not None:
            assert (np.add(trace.y, trace.error_y.array) <= 100).all()
            assert (np.subtract(trace.y, trace.error_y.arrayminus) >= 0).all()
    [axes] = front_picture(history.experiment, history.records, 100).axes
    bars = axes.collections[0].get_paths()
    ends = sorted(tuple(sorted(path.vertices[:, 1])) for path in bars)
    assert ends == [pytest.approx(interval_of(top1, 100)) for top1 in (0.0, 98.0, 100.0)]
