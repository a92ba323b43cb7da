"""The virtual arm: a world of physics and a camera, and tasks that ask something of it."""
