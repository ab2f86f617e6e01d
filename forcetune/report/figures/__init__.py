"""The figures of a page as Plotly reads them; page.js fills in the numbers, which stand beside them as columns."""

from forcetune.report.figures.figure import TRIALS, Figure
from forcetune.report.figures.front import main, objectives
from forcetune.report.figures.paper import iterations, layers, methods
from forcetune.report.figures.search import curves, growth
from forcetune.report.figures.verdicts import forest

__all__ = ["TRIALS", "Figure", "curves", "forest", "growth", "iterations", "layers", "main", "methods", "objectives"]
