"""Robot: kinematics, collision, action space, trajectories, routes and camera geometry."""
