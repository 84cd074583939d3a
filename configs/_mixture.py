"""The training mixture of GVE (arXiv 2510.27571, tables 6 and 7) and its recipes.

Sizes, negatives and batches are the paper's; `docs/training_data.md` says what each
corpus is and how its folder looks. What the paper leaves open is marked here:

- Of VL3-Syn7M, whose four tasks have 100 to 500 thousand pairs each, the single sizes
  are not known. They are equal parts of what the printed totals of image data leave.
- The sentences that ask are our own: the paper prints those of its benchmark only.
- The paper's batches are those of each of its 32 GPUs.
- Hard negatives come with MS MARCO and M-BEIR. Elsewhere they must be mined: a task
  whose pairs name none is trained without.
"""

from typing import NamedTuple

import ml_collections

from gve_jax.config import default_config

GPUS = 32
EPOCHS = 3


class Row(NamedTuple):
    """One task of the mixture."""

    task: str
    sizes: tuple[int, int]  # thousand pairs: of the 3B and of the 7B model
    negatives: int  # hard ones of each pair
    batch: int  # pairs on each GPU
    instruction: str  # of the query
    corpus: dict  # the rest of its entry in config.data.corpora


def _mbeir(name: str, task_id: int) -> dict:
    return dict(
        format="mbeir",
        path="M-BEIR",
        queries=f"query/train/mbeir_{name}_train.jsonl",
        task_id=task_id,
        get="TIGER-Lab/M-BEIR (hub): query/train, cand_pool/global, mbeir_images",
    )


def _pairs(path: str, get: str) -> dict:
    return dict(format="pairs", path=path, get=f"{get}, written as a pairs file")


def _captions(path: str, get: str, swap: bool) -> dict:
    return dict(format="captions", path=path, get=get, swap=swap)


def _uvrd(task: str) -> dict:
    get = "python -m data_synthesis (V-SynFlow), into DATA_ROOT/uvrd"
    return dict(format="pairs", path=f"uvrd/pairs/{task}.jsonl", get=get)


_CC3M = "CC3M: its tsv, and its images by img2dataset"
_LAION = "LAION: captions and URLs as a tsv, and the images by img2dataset"
_VL3 = "VL3-Syn7M: images with short and detailed captions"
_VISTA = "VISTA's synthesised image-text data"

TEXT = [
    Row("MSMARCO_T2T", (300, 500), 2, 64, "Find a passage that answers the question.",
        dict(format="msmarco", path="msmarco",
             get="MS MARCO passages with negatives, as Tevatron packs them")),
    Row("HotpotQA_T2T", (69, 69), 1, 64, "Find a paragraph that helps to answer.",
        _pairs("hotpotqa/T2T.jsonl", "HotpotQA: questions and supporting paragraphs")),
    Row("WebQA_T2T", (11, 11), 1, 32, "Find a text that answers the question.",
        _mbeir("webqa", 1)),
]  # fmt: skip

IMAGE = [
    Row("CIRR_TI2I", (16, 16), 1, 32, "Find the image that differs as described.",
        _mbeir("cirr", 7)),
    Row("Fashion200K_T2I", (4, 4), 1, 32, "Find the image of the garment.",
        _mbeir("fashion200k", 0)),
    Row("NIGHTS_I2I", (13, 13), 1, 32, "Find the image that looks most alike.",
        _mbeir("nights", 4)),
    Row("OVEN_TI2TI", (20, 30), 1, 64, "Find the article, with its image, on this.",
        _mbeir("oven", 8)),
    Row("OVEN_TI2T", (20, 30), 1, 64, "Find the article on what is asked about.",
        _mbeir("oven", 6)),
    Row("VisualNews_T2I", (40, 60), 1, 64, "Find the news photo of the caption.",
        _mbeir("visualnews", 0)),
    Row("EDIS_T2TI", (12, 12), 1, 32, "Find the news photo and headline for this.",
        _mbeir("edis", 2)),
    Row("FashionIQ_TI2I", (4, 4), 1, 32, "Find the garment that differs as described.",
        _mbeir("fashioniq", 7)),
    Row("MSCOCO_I2T", (4, 4), 1, 32, "Find the caption of the image.",
        _mbeir("mscoco", 3)),
    Row("ReMuQ_TI2T", (5, 5), 1, 32, "Find a text that answers about the image.",
        _pairs("remuq/TI2T.jsonl", "ReMuQ: questions on images, and passages")),
    Row("WebQA_T2TI", (12, 12), 1, 32, "Find an image and text that answer.",
        _mbeir("webqa", 2)),
    Row("LLaVA_TI2T", (20, 30), 1, 64, "Find the answer to the question on the image.",
        _pairs("llava/TI2T.jsonl", "LLaVA: questions on images, and answers")),
    Row("EVQA_TI2TI", (20, 30), 1, 64, "Find the article section that answers.",
        _pairs("evqa/TI2TI.jsonl", "Encyclopedic-VQA: questions, article sections")),
    Row("CC3M_T2I", (200, 300), 3, 32, "Find the image of the caption.",
        _captions("cc3m", _CC3M, False)),
    Row("CC3M_I2T", (100, 200), 2, 64, "Find the caption of the image.",
        _captions("cc3m", _CC3M, True)),
    Row("LAION_T2I", (300, 500), 3, 32, "Find the image of the caption.",
        _captions("laion", _LAION, False)),
    Row("LAION_I2T", (200, 200), 2, 64, "Find the caption of the image.",
        _captions("laion", _LAION, True)),
    # MMEB-train has 100 thousand of them: the 7B model's must come from elsewhere.
    Row("ImageNet_I2T", (100, 200), 2, 32, "Name what the image shows.",
        dict(format="mmeb", path="MMEB-train", subset="ImageNet_1K/original-*.parquet",
             get="TIGER-Lab/MMEB-train (hub): ImageNet_1K and images.zip")),
    Row("VL3Short_T2I", (152.5, 257.5), 3, 32, "Find the image of the caption.",
        _pairs("vl3/short_T2I.jsonl", _VL3)),
    Row("VL3Short_I2T", (152.5, 257.5), 2, 64, "Find the caption of the image.",
        _pairs("vl3/short_I2T.jsonl", _VL3)),
    Row("VL3Detailed_T2I", (152.5, 257.5), 3, 32, "Find the image of the description.",
        _pairs("vl3/detailed_T2I.jsonl", _VL3)),
    Row("VL3Detailed_I2T", (152.5, 257.5), 2, 64, "Find the image's description.",
        _pairs("vl3/detailed_I2T.jsonl", _VL3)),
    Row("VISTA_TI2I", (100, 100), 2, 32, "Find the image that differs as described.",
        _pairs("vista/TI2I.jsonl", _VISTA)),
    Row("VISTA_T2TI", (20, 20), 1, 64, "Find the image and text that answer.",
        _pairs("vista/T2TI.jsonl", _VISTA)),
]  # fmt: skip

VIDEO = [
    Row("VAST_T2V", (1600, 1600), 0, 32, "Find the video of the caption.",
        dict(format="vast", path="vast",
             get="VAST's annotations; clips cut from YouTube, such as vast-2m-vi's")),
    # The paper left out about 300 thousand clips of low quality, by which rule is not
    # known: `min_umt` and `min_aesthetic` are there for one.
    Row("InternVid_T2V", (1700, 1700), 0, 32, "Find the clip of the caption.",
        dict(format="internvid", path="internvid",
             get="OpenGVLab/InternVid (hub): the FLT list; its videos from YouTube")),
    Row("PEVideo_T2V", (104, 104), 1, 64, "Find the video of the description.",
        dict(format="pe_video", path="pe_video", get="facebook/PE-Video (hub): train")),
    Row("WebVid_T2V", (5400, 5400), 0, 32, "Find the video of the caption.",
        dict(format="webvid", path="webvid",
             get="TempoFunk/webvid-10M (hub): the lists; videos by their contentUrl")),
]  # fmt: skip

UVRD = [
    Row("UVRD_T2T", (100, 100), 0, 64, "Find another description of the same video.",
        _uvrd("T2T")),
    Row("UVRD_T2I", (210, 210), 0, 32, "Find the image of the description.",
        _uvrd("T2I")),
    Row("UVRD_T2V", (879, 879), 1, 64, "Find the video of the description.",
        _uvrd("T2V")),
    Row("UVRD_TI2V", (89, 89), 1, 64, "Find the video that differs as described.",
        _uvrd("TI2V")),
    Row("UVRD_TV2V", (35, 35), 1, 64, "Find the video that relates as described.",
        _uvrd("TV2V")),
    Row("UVRD_I2V", (200, 200), 0, 64, "Find the video that the image is from.",
        _uvrd("I2V")),
    Row("UVRD_V2V", (36, 36), 0, 64, "Find the video that the clip is from.",
        _uvrd("V2V")),
]  # fmt: skip


def recipe(
    model: str, synthesised: bool = True, curriculum: str = "pyramid"
) -> ml_collections.ConfigDict:
    """The recipe of one model ("3B" or "7B"), or an ablation of it."""
    c = default_config()
    c.model.init_from = f"Qwen/Qwen2.5-VL-{model}-Instruct"
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    # An image has at most 222 tokens and 800 patches, a video 822 and 3200.
    c.preprocess.token_buckets = (32, 64, 128, 256, 512, 896, 1024, 2048, 4096, 8192)
    c.preprocess.patch_buckets = (896, 3200, 8192, 16384, 32768)

    c.data.min_share = 0.002
    c.data.held_out = 256
    batches = {}  # of an epoch
    for row in TEXT + IMAGE + VIDEO + (UVRD if synthesised else []):
        pairs = round(1000 * row.sizes[("3B", "7B").index(model)])
        entry = row.corpus | dict(size=pairs, instruction=row.instruction)
        c.data.corpora[row.task] = ml_collections.ConfigDict(entry)
        c.data.batch_sizes[row.task] = GPUS * row.batch
        c.data.nums_negatives[row.task] = row.negatives
        batches[row.task] = pairs / (GPUS * row.batch)
    # Without a curriculum, each pair comes as often as any other.
    c.data.tasks.update(batches)

    c.curriculum.name = curriculum
    c.curriculum.epochs = EPOCHS
    # The paper's own first prober is not named; its filters use a model of this kind.
    c.curriculum.prober = "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct"
    c.train.steps = round(EPOCHS * sum(batches.values()))
    c.train.chunk = 16384
    c.train.update(checkpoint_every=500, keep=2, keep_every=c.train.steps // EPOCHS)
    return c
