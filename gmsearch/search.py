"""The main job, from settings to a front: check, read the data, train what the study asks for,
answer.
"""

from collections.abc import Iterator

from gmsearch.console import answer
from gmsearch.decisions import DecisionLog
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, read_settings
from gmsearch.files import as_word
from gmsearch.jobs import Writer
from gmsearch.picture import draw_front
from gmsearch.record import TrialRecord, band_cost_in_words, front_of
from gmsearch.run import RunFolder
from gmsearch.session import Account, Ending, Session, open_session
from gmsearch.space import SearchSpace, counted, format_size
from gmsearch.storage import STORAGE_ERRORS, first_line, place_of
from gmsearch.stored import StudyReader
from gmsearch.study import SearchStudy


def run_search(experiment: Experiment, folder: RunFolder) -> Ending:
    """Runs a search to its end, or goes on with one.

    Raises UserError, with no run folder left behind where nothing was trained yet, and
    TrainingError where every trial fails.
    """
    experiment = as_begun(experiment, folder)
    _check_moved(experiment, folder)
    space = experiment.space_left(folder.experiment_file)
    space.check_budget(experiment.budget)
    with open_session(experiment, folder) as session:
        try:
            return _search(session, space)
        except STORAGE_ERRORS as error:
            place = place_of(folder, experiment.storage)
            raise SettingsError(
                f"{place}: cannot be used: {first_line(error)}; "
                "`gmsearch resume` goes on when it can"
            ) from None


def as_begun(experiment: Experiment, folder: RunFolder) -> Experiment:
    """The settings with the space of the run that is there already, where the one that is asked for
    is a part of it, and with its places where none are asked for. What is no part of it is left
    alone, for the run to refuse.
    """
    if not folder.experiment_file.exists():
        return experiment
    before = read_settings(folder.experiment_file)
    if not isinstance(before, Experiment):
        return experiment
    for name in ("storage", "checkpoints"):
        if getattr(experiment, name) is None:
            experiment = experiment.model_copy(update={name: getattr(before, name)})
    if before.space == experiment.space:
        return experiment
    whole = before.search_space(folder.experiment_file)
    if whole.narrowed_to(experiment.search_space(folder.experiment_file)) is None:
        return experiment
    return experiment.model_copy(update={"space": before.space, "narrowed": experiment.space})


def _check_moved(experiment: Experiment, folder: RunFolder) -> None:
    """Raises SettingsError where a run is to go on with a study elsewhere that is not its own;
    nothing is written yet.
    """
    if folder.experiment_file.exists():
        before = read_settings(folder.experiment_file)
        if isinstance(before, Experiment) and before.storage != experiment.storage:
            StudyReader(folder, experiment)


def _narrowing_in_words(space: SearchSpace, study: SearchStudy) -> Iterator[str]:
    """What a narrowed space has lost, and what of the study lies outside it."""
    gone = space.went_away()
    if not gone:
        return
    options = "; ".join(f"{name} {', '.join(map(str, lost))}" for name, lost in gone.items())
    outside = sum(
        any(record.picks.get(name) in lost for name, lost in gone.items())
        for record in study.records.values()
    )
    yield f"narrowed space, these options went away: {options}"
    yield (
        f"{outside} of {len(study.records)} trials so far lie outside it; they stay in the study "
        "and count"
    )


def _search(session: Session[Experiment], space: SearchSpace) -> Ending:
    """Trains what is left to train, and answers."""
    experiment, console = session.settings, session.console
    log = DecisionLog(session.folder.decisions_file)
    study = SearchStudy(session.folder, experiment, space, log=log)
    stops = experiment.early_stop != "off"
    have = "has" if experiment.trials == 1 else "have"
    whole = f"as many epochs as {counted(experiment.trials, 'training')} {have}"
    networks = counted(experiment.trials, "network")
    console.print(
        f"{experiment.name}: {whole if stops else f'up to {networks}'} within "
        f"{format_size(experiment.budget)} MACs, {experiment.fidelity_in_words()} each",
        soft_wrap=True,
    )
    for line in _narrowing_in_words(space, study):
        console.print(line, soft_wrap=True)
    if study.records:
        ended = counted(study.num_finished, "training")
        have = "has" if study.num_finished == 1 else "have"
        console.print(f"going on with {session.folder.path}: {ended} {have} ended")

    watched = [] if experiment.watch is None else experiment.watch.names

    def write_tables(records: list[TrialRecord]) -> None:
        choices = [choice.name for choice in space.choices]
        session.folder.write_trials(records, choices, also=watched)
        session.folder.write_front(front_of(records, experiment.objectives))

    account = session.train(study, Writer(write_tables))
    write_tables(list(study.records.values()))
    _answer(session, study, account)
    return session.ending(study.is_finished, account)


def _answer(session: Session[Experiment], study: SearchStudy, account: Account | None) -> None:
    """Draws front.png, and prints the table, the account and what to type next."""
    experiment, folder, console = session.settings, session.folder, session.console
    records, num_minival = list(study.records.values()), len(session.dataset.minival)
    draw_front(folder.front_picture, experiment, records, num_minival)
    console.print(answer(experiment, records, num_minival))
    if told := band_cost_in_words(records):
        console.print(told, soft_wrap=True)
    if account := session.settle(account):
        console.print(account.in_words())
    console.print(f"wrote front.json, trials.csv and front.png to {folder.path}")
    if study.is_finished and study.is_exhausted:
        console.print("nothing is left to try: the space has no other network within the budget")
        return
    more = f" --trials {2 * study.num_spent}" if study.is_finished else ""
    console.print(f"next: gmsearch resume {as_word(folder.path)}{more}", soft_wrap=True)
