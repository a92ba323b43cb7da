"""Surprise benchmark: detection of anomalies by the surprise of the belief."""
