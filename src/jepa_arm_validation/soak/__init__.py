"""Soak test: the whole graph under random goals and faults for a long time."""
