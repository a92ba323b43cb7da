"""Agent: from an observation to a proposal, and the control loop around it."""
