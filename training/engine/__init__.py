"""Engines apply gradients: one process, or DeepSpeed ZeRO over many."""
