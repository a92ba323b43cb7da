"""Obstacle avoidance: constraints, subgoals on the way around, and recovery of stalled pushes."""
