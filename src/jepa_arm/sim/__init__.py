"""Simulation: the PyBullet world, the tasks with their scenes, and policies that see the truth."""
