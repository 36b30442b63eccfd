"""From a base model to its 4-bit and GGUF variants."""
