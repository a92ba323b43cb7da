"""ROS 2 runtime: executors, lifecycle, parameters, conversions and processes of the nodes."""
