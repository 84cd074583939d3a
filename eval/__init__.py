"""UVRB: the universal video retrieval benchmark."""
