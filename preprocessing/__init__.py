"""Raw videos to latent shards: pure Python over arrays and tables, without Ray and without MLflow."""
