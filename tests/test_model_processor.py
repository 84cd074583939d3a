"""From files through the processor and the encoder, against torch."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gve_jax.contract import Contract
from gve_jax.preprocess import Processor, train_tokenizer
from gve_jax.types import Item
from tests.model_witness import embed, hf_model, jax_model, to_torch, window_order


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_tokenizer(["a red ball moves left of a blue square"], 300)
    return Processor(
        tokenizer,
        Contract(min_pixels=4 * 784, max_pixels=12 * 784, max_tokens=256),
        token_buckets=(32, 64, 128, 256),
        patch_buckets=(128, 256, 512),
        exact_grids=((1, 6, 6), (4, 6, 6)),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name, (h, w) in {"square": (90, 90), "wide": (64, 150)}.items():
        image = rng.integers(0, 255, (h, w, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
        with av.open(str(folder / f"{name}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=5)
            stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
            for i in range(20):
                frame = av.VideoFrame.from_ndarray(np.roll(image, 9 * i, 1), "rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return folder


def theirs(model, encoded, ids):
    """Torch's embedding of an encoded item of at most one medium, patches put back
    into raster order from their coordinates."""
    types = np.select([encoded.tokens == i for i in ids], [1, 2], 0)
    item = dict(tokens=encoded.tokens.tolist(), types=types.tolist(), seconds=[])
    item |= dict(grids=[], kinds=[], patches=[])
    if len(encoded.patches):
        rows, columns = encoded.coords.max(0) + 1
        grid = (len(encoded.patches) // (rows * columns), int(rows), int(columns))
        back = np.argsort(window_order(grid)[0])
        raster = encoded.patches.reshape(-1, 4, 1176)[back].reshape(-1, 1176)
        item |= dict(grids=[grid], kinds=[("image", "video")[types.max() - 1]])
        item |= dict(patches=[raster])
    inputs = to_torch([item])
    inputs["position_ids"] = torch.from_numpy(encoded.positions).long()[:, None]
    with torch.no_grad():
        last = model.model(**inputs).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(last, dim=-1).numpy()


def test_files_to_vectors(processor, files):
    special = processor.tokenizer.special
    ids = [special("<|image_pad|>"), special("<|video_pad|>")]
    model = hf_model(
        vocab_size=processor.tokenizer.vocab_size,
        image_token_id=ids[0],
        video_token_id=ids[1],
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
    )
    ours = jax_model(model)
    media = [
        dict(video="square.mp4"),
        dict(video="wide.mp4"),
        dict(image="wide.png"),
        dict(image="square.png", text="a blue square"),
        dict(text="a red ball moves left"),
    ]
    encoded = []
    for i, m in enumerate(media):
        paths = {k: v if k == "text" else str(files / v) for k, v in m.items()}
        encoded.append(processor.encode(Item(id=str(i), **paths)))
    want = np.stack([theirs(model, e, ids) for e in encoded])
    # All in one padded batch, then each in its own bucket with padding rows.
    together = embed(ours, processor.collate(encoded))
    np.testing.assert_allclose(together, want, atol=1e-4, rtol=0)
    for row in (0, 2, 4):
        mine = embed(ours, processor.collate([encoded[row]], batch_size=2))
        np.testing.assert_allclose(mine[0], want[row], atol=1e-4, rtol=0)
        assert np.isfinite(mine).all()
