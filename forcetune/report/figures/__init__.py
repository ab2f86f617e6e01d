"""The figures of a page as Plotly reads them; page.js fills in the numbers, which stand beside them as columns."""

from forcetune.report.figures.figure import TRIALS_SOURCE, Figure
from forcetune.report.figures.front import draw_main, draw_objectives
from forcetune.report.figures.paper import draw_changing_layers, draw_iterations, draw_layers, draw_methods
from forcetune.report.figures.search import draw_curves, draw_growth, draw_trails
from forcetune.report.figures.verdicts import draw_forest

__all__ = [
    "TRIALS_SOURCE",
    "Figure",
    "draw_changing_layers",
    "draw_curves",
    "draw_forest",
    "draw_growth",
    "draw_iterations",
    "draw_layers",
    "draw_main",
    "draw_methods",
    "draw_objectives",
    "draw_trails",
]
