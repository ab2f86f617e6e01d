"""The modules of the race: the arms, their processes, the score, the kill test and the report."""
