"""Distributed hyperparameter search for networks that are pruned before they are trained."""

__version__ = "0.1.0"
