"""Training: one loop for the world model and for the networks on its frozen latents."""
