"""The records as other tools read them: tables, evaluation results, and a description."""
