"""Planning in latent space: costs, optimizers, goal-conditioned heads, and the planner."""
