"""Codecs turn pixels, captions and images into the latents and features that a model trains on."""
