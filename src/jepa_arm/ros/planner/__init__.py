"""Planner node and its parts."""
