"""Cost terms on predicted rollouts, one per file; ``total_cost`` lists and sums them."""
