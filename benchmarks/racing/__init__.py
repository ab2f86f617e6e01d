"""The race's own parts: the arms, their processes, the score, the kill test and the report."""
