"""The Hugging Face Hub: the few small files that say what a model is, fetched once and kept."""
