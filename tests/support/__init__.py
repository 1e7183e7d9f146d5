"""What several test modules use: cases, helpers, naive oracles (`reference_*`), and the makers of golden vectors."""
