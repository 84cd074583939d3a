"""Probes of a finished evaluation beyond the paper's scores; see `eval.diagnose`."""

from eval.probes import confusion, geometry, variants
from eval.probes.paired import compare
from eval.probes.records import NotRun, Probe, Subject, Variant

PROBES: dict[str, Probe] = {
    "frame_order": Probe(
        "Does the order of frames matter? Text queries keep theirs in words.",
        variants=variants.frame_order,
    ),
    "query_parts": Probe(
        "Do composed queries need both of their parts?", variants=variants.query_parts
    ),
    "no_instruction": Probe(
        "What does the instruction do for queries?", variants=variants.no_instruction
    ),
    "wrong_instruction": Probe(
        "Is the instruction read, or any as good?", variants=variants.wrong_instruction
    ),
    "paraphrase": Probe(
        "Are queries found by what they say, or by their words?",
        variants=variants.paraphrase,
    ),
    "hubness": Probe(
        "Are some items found by many queries, and others by none?",
        measure=geometry.measure_hubness,
    ),
    "modality_gap": Probe(
        "Do queries and corpus lie apart?", measure=geometry.measure_gap
    ),
    "anisotropy": Probe(
        "How much of the space is in use?", measure=geometry.measure_anisotropy
    ),
    "confusion": Probe(
        "Which attribute do wrong answers get wrong?", measure=confusion.measure
    ),
}

__all__ = ["PROBES", "NotRun", "Probe", "Subject", "Variant", "compare"]
