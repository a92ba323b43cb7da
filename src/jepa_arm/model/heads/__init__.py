"""Heads: networks on frozen latents, trained after the world model."""
