"""The main job, from settings to a front: check, read the data, train what the study asks for,
answer.
"""

from gmsearch.console import answer
from gmsearch.decisions import DecisionLog
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment
from gmsearch.jobs import Writer
from gmsearch.picture import draw_front
from gmsearch.record import TrialRecord, front_of
from gmsearch.run import RunFolder
from gmsearch.session import Account, Ending, Session, open_session
from gmsearch.space import SearchSpace, format_size
from gmsearch.study import STORAGE_ERRORS, SearchStudy, first_line


def run_search(experiment: Experiment, folder: RunFolder) -> Ending:
    """Runs a search to its end, or goes on with one.

    Raises UserError, with no run folder left behind where nothing was trained yet, and
    TrainingError where every trial fails.
    """
    space = experiment.search_space(folder.experiment_file)
    space.check_budget(experiment.budget)
    with open_session(experiment, folder) as session:
        try:
            return _search(session, space)
        except STORAGE_ERRORS as error:
            cause = first_line(error)
            raise SettingsError(f"{folder.study_file}: cannot be used: {cause}") from None


def _search(session: Session[Experiment], space: SearchSpace) -> Ending:
    """Trains what is left to train, and answers."""
    experiment, console = session.settings, session.console
    log = DecisionLog(session.folder.decisions_file)
    study = SearchStudy(session.folder, experiment, space, log=log)
    stops = experiment.early_stop != "off"
    spending = f"as many epochs as {experiment.trials} trainings have" if stops else None
    console.print(
        f"{experiment.name}: {spending or f'up to {experiment.trials} networks'} within "
        f"{format_size(experiment.budget)} MACs, {experiment.fidelity_in_words()} each",
        soft_wrap=True,
    )
    if study.records:
        ended = study.num_finished
        console.print(f"going on with {session.folder.path}: {ended} trainings have ended")

    def write_tables(records: list[TrialRecord]) -> None:
        session.folder.write_trials(records, [choice.name for choice in space.choices])
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
    if account:
        console.print(account.in_words())
    console.print(f"wrote front.json, trials.csv and front.png to {folder.path}")
    if study.is_finished and study.is_exhausted:
        console.print("nothing is left to try: the space has no other network within the budget")
        return
    more = f" --trials {2 * experiment.trials}" if study.is_finished else ""
    console.print(f"next: gmsearch resume {folder.path}{more}", soft_wrap=True)
