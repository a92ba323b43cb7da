"""Episodes on disk and the windows that training reads from them."""
