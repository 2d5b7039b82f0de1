"""`cloudflare`: where `workers` was in the oldest programs."""
