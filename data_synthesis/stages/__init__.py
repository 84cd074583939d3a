"""The stages; each module has `work(run)`, what Beam has to do for it."""

# In the order in which they run.
STAGES = (
    "ingest", "benchmark", "qc", "links", "texts", "groups", "embed", "nearest",
    "decide", "assets", "caption", "score_captions", "select",
    "candidates", "compose", "extend", "probes", "mine", "corpus", "examples",
)  # fmt: skip
