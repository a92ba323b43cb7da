"""Peers: comparison with other packages' planners on the same scenes, and cost of decisions."""
