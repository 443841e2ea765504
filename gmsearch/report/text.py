"""The essentials of a run for a terminal: `gmsearch report RUN --text`."""

from rich.console import Console

from gmsearch.agreement import correlation_in_words, finalists_table
from gmsearch.console import answer
from gmsearch.effects import effects_by_band, effects_of
from gmsearch.finalists import trained_in_full
from gmsearch.history import History
from gmsearch.record import band_cost_in_words
from gmsearch.report.account import account_of, account_rows
from gmsearch.report.page import proxy_note, warnings
from gmsearch.scatter import scatter


def print_essentials(console: Console, history: History) -> None:
    """A small picture, the front, what was trained in full, what the gates did, and the account."""
    finalists = trained_in_full(history.folder)
    effects = effects_of(history.complete)
    for line in warnings(history):
        console.print(line, soft_wrap=True)
    ascii_only = console.options.ascii_only
    for line in scatter(history.experiment, history.records, ascii_only=ascii_only):
        console.print(line)
    console.print(answer(history.experiment, history.records, history.num_minival))
    if told := proxy_note(history):
        console.print(told, soft_wrap=True)
    if finalists:
        console.print(finalists_table(finalists))
        console.print(correlation_in_words(finalists), soft_wrap=True)
    console.print("what the gates did, at equal MACs")
    lines = ("not resolved by this run",) if effects is None else effects.in_words()
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)
    if watched := band_cost_in_words(history.records):
        console.print(f"\n{watched}", soft_wrap=True)
        for name, of_band in effects_by_band(history.complete).items():
            console.print(f"what the gates did to {name}, at equal MACs")
            for line in of_band.in_words(per_factor=1):
                console.print(f"  {line}", soft_wrap=True)
    console.print("\nthe account")
    for question, told in account_rows(account_of(history)):
        console.print(f"  {question}: {told}", soft_wrap=True)
