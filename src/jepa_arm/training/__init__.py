"""Teaches the networks: the world model, and what is read of its frozen latents."""
