"""Translation of FLORES+, one task for every direction."""
