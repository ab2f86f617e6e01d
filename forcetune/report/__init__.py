"""The report of a study: one page that opens without a network, and its results for Python and notebooks."""

from forcetune.report.study_results import StudyResults
from forcetune.report.writing import ARTIFACT, write

__all__ = ["ARTIFACT", "StudyResults", "write"]
