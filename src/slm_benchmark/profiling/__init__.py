"""Speed, memory and energy of a model's variants, measured side by side in one session."""
