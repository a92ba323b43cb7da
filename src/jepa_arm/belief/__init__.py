"""Belief: the estimate of the world between images, its surprise, and its snapshots on disk."""
