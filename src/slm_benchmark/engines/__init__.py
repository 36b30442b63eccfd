"""What runs a model: llama.cpp for GGUF files, Transformers for everything else."""
