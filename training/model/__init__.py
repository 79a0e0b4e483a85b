"""MemoryPack on the diffusers FramePack transformer, which is subclassed and not forked."""
