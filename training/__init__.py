"""Latent shards to a checkpoint to a video: torch and DeepSpeed, without Ray and without MLflow."""
