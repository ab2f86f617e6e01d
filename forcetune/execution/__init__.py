"""The execution of trials on Ray: Tune places them, workers run them, and studies share a cluster."""
