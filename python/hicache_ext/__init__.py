"""hicache_ext: the memory hierarchy of an LLM server as a library."""
