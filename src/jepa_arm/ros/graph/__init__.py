"""Graph: description, processes, launch actions, and episodes over ROS 2."""
