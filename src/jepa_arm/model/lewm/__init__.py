"""LeWorldModel as published: network, and import and export of its released checkpoints."""
