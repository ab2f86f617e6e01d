"""The decisions of a search: proposals, early stopping, budgets, companions, repair and progress. Knows no Ray."""
