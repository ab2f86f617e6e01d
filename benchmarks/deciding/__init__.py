"""The tables of benchmarks/verdicts.py: how often verdicts on pairs, nights and fresh seeds are wrong."""
