"""MT-Bench: two-turn conversations, judged or compared with references."""
