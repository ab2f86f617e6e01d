"""A service on this machine: a Ray head, an MLflow server, dashboards, and their processes."""
