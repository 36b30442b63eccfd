"""From records to the leaderboard, its ranking and the quantization report."""
