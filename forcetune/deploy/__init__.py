"""The trained network of a trial: loaded with the weights that its run keeps, for use outside of forcetune."""

from forcetune.deploy.trained import TrainedNetwork, load_masks, load_network, load_trained_network

__all__ = ["TrainedNetwork", "load_masks", "load_network", "load_trained_network"]
