"""The guard as a managed ROS 2 node, and the outputs by which it commands a robot."""
