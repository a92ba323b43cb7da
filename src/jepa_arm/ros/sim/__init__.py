"""The virtual arm as a ROS 2 node: sensors, controllers, faults and lock-step."""
