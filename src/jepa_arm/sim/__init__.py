"""Simulation: the PyBullet world, tasks with their scenes, and policies that see ground truth."""
