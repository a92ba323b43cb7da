"""Datasets: collection of play data, episode files, training windows, and MCAP recordings."""
