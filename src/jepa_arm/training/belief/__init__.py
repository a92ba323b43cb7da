"""Training of the belief heads on frozen latents, and the report on them."""
