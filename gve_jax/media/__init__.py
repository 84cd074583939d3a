"""Files to frames: decoding, uniform sampling, limits and integrity. NumPy only."""

from gve_jax.media.cuts import LongVideo
from gve_jax.media.files import content_key
from gve_jax.media.image import read_image
from gve_jax.media.limits import Limits, MediaError
from gve_jax.media.sampling import frames_at
from gve_jax.media.stream import stream_video
from gve_jax.media.video import DECODER, VideoInfo, probe, read_video

__all__ = [
    "DECODER",
    "Limits",
    "LongVideo",
    "MediaError",
    "VideoInfo",
    "content_key",
    "frames_at",
    "probe",
    "read_image",
    "read_video",
    "stream_video",
]
