"""The report of a study: one page that opens without a network."""

from forcetune.report.writing import ARTIFACT, write

__all__ = ["ARTIFACT", "write"]
