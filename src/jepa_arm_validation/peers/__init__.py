"""Peers: other packages' planners on the same scenes, and what decisions cost."""
