"""Deployment: the kept weights of a run, their export to a file that runs, its verification and its cost."""

from forcetune.deploy.export import Export, ExportOptions, export_network
from forcetune.deploy.objectives import latency
from forcetune.deploy.proving import Proof, prove_registered
from forcetune.deploy.registration import Registration
from forcetune.deploy.trained import TrainedNetwork, load_masks, load_network, load_trained_network

__all__ = [
    "Export",
    "ExportOptions",
    "Proof",
    "Registration",
    "TrainedNetwork",
    "export_network",
    "latency",
    "load_masks",
    "load_network",
    "load_trained_network",
    "prove_registered",
]
