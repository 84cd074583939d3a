"""VideoPrism's video-text models as a baseline (github.com/google-deepmind/videoprism).

python -m eval --config=configs/uvrb.py --config.eval.root=UVRB \
    --output=runs/videoprism --encoder=eval.encoders.videoprism:VideoPrism

Needs that package, installed from its repository. Written to its README; unproven: it
was not run with the package, which is in no registry. Frames are scaled to a square, as
in its examples; instructions are left out, an image is a video of one frame, and a
query of text and image (or video) is the mean of their unit vectors.
"""

import functools

import jax
import numpy as np

from eval.encoders.frames import FrameEncoder, unit_rows
from eval.encoders.reading import Shown, squeeze
from gve_jax.types import UserError

_SIZE = 288  # pixels of the square frames of all released models
_DIM = {
    "videoprism_lvt_public_v1_base": 768,
    "videoprism_lvt_public_v1_large": 1024,
}


class VideoPrism(FrameEncoder):
    """`num_frames` other than the model's (16, 8 of large) are interpolated by it."""

    def __init__(
        self,
        name: str = "videoprism_lvt_public_v1_base",
        num_frames: int = 8,
        batch_size: int = 8,
    ):
        """`name`: a configuration of the package that embeds text too.

        Raises:
          UserError: the package is not there, or the name is of no such model.
        """
        if name not in _DIM:
            raise UserError(
                f"--encoder_args: name is {name!r}, not one of {', '.join(_DIM)}"
            )
        try:
            from videoprism import models
        except ImportError as e:
            raise UserError(
                f"--encoder={type(self).__name__}: no package videoprism ({e}); "
                "install it from github.com/google-deepmind/videoprism"
            ) from None
        self._models = models
        self._tokenizer = models.load_text_tokenizer("c4_en")
        model, weights = models.get_model(name), models.load_pretrained_weights(name)
        self._forward = jax.jit(
            lambda video, ids, paddings: model.apply(
                weights, video, ids, paddings, train=False
            )[:2]
        )
        super().__init__(
            _DIM[name],
            identity={"weights": name},
            num_frames=num_frames,
            batch_size=batch_size,
            prepare=functools.partial(squeeze, _SIZE),
        )

    def encode(self, items: list[Shown]) -> np.ndarray:
        first, parts = items[0], []
        if first.text:
            texts = [x.text for x in items]
            tokens = self._models.tokenize_texts(self._tokenizer, texts)
            parts.append(self._forward(None, *tokens)[1])
        if first.image is not None:
            parts.append(self._videos([x.image[None] for x in items]))
        if first.video is not None:
            parts.append(self._videos([x.video for x in items]))
        return np.sum([unit_rows(np.asarray(p), "VideoPrism") for p in parts], axis=0)

    def _videos(self, videos: list[np.ndarray]) -> jax.Array:
        return self._forward(np.stack(videos) / np.float32(255), None, None)[0]
