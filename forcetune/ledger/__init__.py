"""The state that survives a crash: the Optuna study, the outbox to MLflow, locks, checkpoints, and their messages."""
