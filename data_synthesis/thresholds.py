"""Which stored scores make a record unfit: pure functions of a record and a config."""

from data_synthesis import rectify
from data_synthesis.record import Record


def unfit(record: Record, config) -> list[str]:
    """Codes of what text, video and repetition say against a record of `groups`."""
    text = rectify.rectify(record.text.raw, config.text)
    source, limits = record.source, config.media
    scores = {name: score.value for name, score in record.scores.items()}
    noise_free = config.motion.preset == "noise_free"
    share = scores["motion.share_noise_free" if noise_free else "motion.share"]
    holds = {
        "few_frames": source.num_frames < limits.min_frames,
        "small": min(source.width, source.height) < limits.min_side,
        "large": max(source.width, source.height) > limits.max_side,
        "long": source.duration > limits.max_duration,
        # A file may decode without an error and still lack frames that it declares.
        "frames_lost": source.num_frames
        < (1 - limits.max_damage) * scores["video.declared"],
        "static": share < config.motion.min_share,
        "frozen": scores["motion.freeze"] > config.motion.max_freeze,
        "shared_text": record.group.text_videos > config.text.max_videos,
        f"duplicate_{record.group.duplicate}": bool(record.group.duplicate),
        "benchmark": bool(record.group.benchmark),
    }
    return [*text.reasons, *(code for code, yes in holds.items() if yes)]


def inconsistent(record: Record, calibration: dict) -> bool:
    """Whether its text and video match less than shuffled pairs do."""
    score = record.scores.get("match.video")
    return bool(calibration["filter"] and score and score.value < calibration["tau"])


def repeats(record: Record, calibration: dict, config) -> bool:
    """Whether a video before it, by id, shows nearly the same to the embedder."""
    score = record.scores.get("match.nearest")
    least = config.duplicates.min_cosine
    return bool(calibration["filter"] and score and score.value >= least)
