"""What the report tells a reader who has never heard of the benchmark."""

# Ability -> (name, what it measures).
ABILITIES: dict[str, tuple[str, str]] = {
    "TXT": (
        "Text queries",
        "Finding a video from words alone. The mean of coarse, fine and long.",
    ),
    "CMP": (
        "Composed queries",
        "The query is a sentence together with an image or a clip; neither is enough "
        "by itself.",
    ),
    "VIS": (
        "Visual queries",
        "No words at all: a single frame, or a short clip, asks for the video it "
        "comes from.",
    ),
    "CG": (
        "Coarse",
        "General descriptions of what a video shows, as one would say it to a friend.",
    ),
    "FG": (
        "Fine-grained",
        "Queries that only a detail decides. The mean of spatial, temporal and "
        "partially relevant.",
    ),
    "LC": (
        "Long context",
        "Long videos, or descriptions hundreds of words long.",
    ),
    "S": (
        "Spatial",
        "What is where: objects, their looks and their places relative to each other.",
    ),
    "T": (
        "Temporal",
        "What happens and in which order, and how the camera moves. Invisible in any "
        "single frame.",
    ),
    "PR": (
        "Partially relevant",
        "The query tells only a part: one event, a theme, or a handful of keywords.",
    ),
}

# Dataset -> what its queries look like.
DATASETS: dict[str, str] = {
    "MSRVTT": "One general sentence about a short video.",
    "DiDeMo": "Several sentences, together describing the scenes of a video.",
    "CRB-G": "A long general description of the whole video.",
    "CRB-S": "A description of objects, places and looks only.",
    "VDC-O": "A description of the main objects and what they do.",
    "CRB-T": "A description of actions and their order only.",
    "CMRB": "How the camera moves: pan, tilt, zoom, dolly or not at all.",
    "DREAM-E": "One event out of the several that a video shows.",
    "LoVR-TH": "The theme of a video rather than its details.",
    "PEV-K": "A list of keywords.",
    "LoVR-V": "A very long text for a long video.",
    "VDC-D": "A detailed description of everything in the video.",
    "MS-TI": "A sentence and an image; a few candidate clips to choose from.",
    "MS-TV": "A sentence and a clip; a few candidate clips to choose from.",
    "MSRVTT-I2V": "One frame; which video is it from?",
    "LoVR-C2V": "A short clip; which long video is it from?",
}


def metric(name: str) -> str:
    """recall@10 as R@10, precision@1 as P@1."""
    kind, _, k = name.partition("@")
    return f"{kind[0].upper()}@{k}"


def modality(name: str) -> str:
    """As of `uvrb.Dataset`, in words: a video that asks is a clip."""
    return name.replace("video", "clip").replace("+", " + ")
