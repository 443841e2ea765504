"""Colours and words that all pictures share."""

from itertools import product

# Okabe and Ito's palette: told apart by colour-blind people too.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILION, SKY, BLACK = "#D55E00", "#56B4E9", "#000000"
GREY, PALE = "#8A8A8A", "#B0B0B0"
RUNS = (BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK)  # of several in one figure
STYLES = ("-", "--", ":")  # of matplotlib; the next one where the colours are used up
LOOKS = tuple(product(STYLES, RUNS))  # style and colour of the lines of several runs

BASELINE_MARKS = {"GmNet": "^", "no gates": "v"}  # of matplotlib
COST_WORDS = {"macs": "MACs", "params": "params", "activations": "activations"}


def in_words(objective: str) -> str:
    """An objective as pictures have it; a band has a name that serves."""
    return COST_WORDS.get(objective, objective)
