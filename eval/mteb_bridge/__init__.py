"""UVRB in MTEB, and our embedder as an MTEB model; needs the extra `mteb`."""
