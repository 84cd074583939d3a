"""CLIP as a baseline: the mean of a video's frames, each embedded on its own.

python -m eval --config=configs/uvrb.py --config.eval.root=UVRB --output=runs/clip \
    --encoder=eval.encoders.clip:Clip \
    --encoder_args='{"name": "openai/clip-vit-base-patch32"}'

Needs the extra `clip` (torch). What CLIP has no place for is left out: instructions,
text behind its 77 tokens, the order of frames. A query of text and image (or video) is
the mean of their unit vectors.
"""

import functools

import numpy as np

from eval.encoders.frames import FrameEncoder, unit_rows
from eval.encoders.reading import Shown, centre_square

# Of the pixels, in 0..1, that CLIP was trained on (github.com/openai/CLIP, clip.py).
_MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])
_STD = np.float32([0.26862954, 0.26130258, 0.27577711])


class Clip(FrameEncoder):
    """Any model of `transformers.CLIPModel`."""

    def __init__(self, name: str, num_frames: int = 8, batch_size: int = 16):
        """`name`: a folder or hub id."""
        # Not at the top: the extra is needed by who asks for it.
        import torch
        from transformers import AutoTokenizer, CLIPModel

        self._torch = torch
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = CLIPModel.from_pretrained(name, use_safetensors=True).to(device)
        self._model.eval()
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        config = self._model.config
        super().__init__(
            config.projection_dim,
            identity={"weights": name, "device": device},
            num_frames=num_frames,
            batch_size=batch_size,
            prepare=functools.partial(centre_square, config.vision_config.image_size),
        )

    def encode(self, items: list[Shown]) -> np.ndarray:
        first, parts = items[0], []
        with self._torch.inference_mode():
            if first.text:
                parts.append(self._texts([x.text for x in items]))
            if first.image is not None:
                parts.append(self._images(np.stack([x.image for x in items])))
            if first.video is not None:
                frames = self._images(np.concatenate([x.video for x in items]))
                frames = unit_rows(frames, "Clip")
                parts.append(frames.reshape(len(items), -1, self.dim).mean(1))
        return np.sum([unit_rows(part, "Clip") for part in parts], axis=0)

    def _texts(self, texts: list[str]) -> np.ndarray:
        most = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
        ).to(self._model.device)
        return self._model.get_text_features(**tokens).pooler_output.cpu().numpy()

    def _images(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [n, size, size, 3] -> float32 [n, dim]"""
        x = ((pixels / np.float32(255) - _MEAN) / _STD).transpose(0, 3, 1, 2)
        x = self._torch.from_numpy(np.ascontiguousarray(x)).to(self._model.device)
        found = self._model.get_image_features(pixel_values=x)
        return found.pooler_output.cpu().numpy()
