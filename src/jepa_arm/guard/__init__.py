"""Safety checks between planner and robot: proposals, commands, joint states and clocks."""
