"""Composite losses on networks: planeswalker's strategy, its controls and rivals, and its failure modes."""
