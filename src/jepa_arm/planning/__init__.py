"""Planning: search for control actions whose predicted latents reach a goal at the least cost."""
