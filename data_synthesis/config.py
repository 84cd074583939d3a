"""Every configuration key of the synthesis workflow, once, with its default."""

import ml_collections
from ml_collections import ConfigDict


def default_config() -> ml_collections.ConfigDict:
    """Numbers of the paper where it states them; else see docs/synthesis.md."""
    c = ConfigDict()
    c.seed = 42
    c.shard_size = 500  # records of a shard, about; fixed by the first run of a folder

    c.ingest = ConfigDict(
        dict(
            # Folders that videos may lie in, links resolved; empty: the input's folder.
            roots=(),
            dataset="",  # name and licence of the source, for the records
            license="",
        )
    )

    # Limits on a file; what passes one is refused. Decoding happens in processes of
    # their own, which are killed for time and for memory.
    c.media = ConfigDict(
        dict(
            max_seconds=120.0,  # of work on one video
            max_memory_mb=4096,
            min_frames=8,  # the embedder takes eight
            min_side=128,  # pixels
            max_side=8192,
            max_duration=600.0,  # seconds
            max_damage=0.05,  # share of frames that may fail to decode
            repair=True,  # try to mend files that do not decode
        )
    )

    c.text = ConfigDict(
        dict(
            min_words=3,
            max_words=256,
            min_alnum=0.25,  # shares of characters
            max_special=0.25,
            max_bigram=0.20,  # share of the most frequent pair of words, from 15 words
            max_word=0.5,  # share of the most frequent word
            language="en",  # empty: any
            min_language_words=5,  # reject a language from so many words on ...
            min_language_confidence=0.65,  # ... and at this confidence
            max_videos=1,  # a text that more videos carry describes none of them
        )
    )

    c.motion = ConfigDict(
        dict(
            # "default", or "noise_free" for renders without sensor noise.
            preset="default",
            min_share=0.20,  # of frame pairs that move
            max_freeze=0.9,  # share of frame pairs that are equal
        )
    )

    c.clips = ConfigDict(
        dict(
            min_seconds=2.0,
            max_seconds=10.0,
            max_share=0.6,  # of the video
            frames=3,  # stills of a video
            min_shot=0.6,  # seconds
        )
    )

    c.duplicates = ConfigDict(
        dict(
            max_distance=8.0,  # mean Hamming distance of perceptual hashes, of 64 bits
            # Cosine of two videos from which on one repeats the other. What it means
            # depends on the embedder: see the report's histogram. 2: drops nothing.
            min_cosine=0.99,
            # Folder of a prepared benchmark: a video of it among the raw ones ends the
            # run, unless waived; then it is dropped.
            benchmark="",
            waive=False,
        )
    )

    c.consistency = ConfigDict(
        dict(
            # Embedder of texts and videos: a checkpoint or hub id; empty: no filter.
            embedder="",
            frames=3,  # single frames of a video that a text is compared with as well
            batch=64,  # records embedded at once
            pairs=2000,  # of the calibration
            percentile=99.0,  # of shuffled pairs' scores: the threshold
            min_auroc=0.9,  # below it the scores are kept, but nothing is dropped
            tau=-2.0,  # a threshold of one's own, whatever the AUROC; -2: calibrated
        )
    )

    c.caption = ConfigDict(
        dict(
            # "groundtruth", "flax", "http" or "fake".
            captioner="groundtruth",
            truth="",  # groundtruth: truth.jsonl of the world
            checkpoint="",  # flax: a Qwen-VL checkpoint or hub id
            batch_size=8,  # flax: requests that are answered together
            flags=(),  # flax: more of python -m gve_jax.generate_serve
            url="",  # http: base of an OpenAI-compatible server, .../v1
            model="",  # http: the server's name of the model
            key_variable="OPENAI_API_KEY",  # http: where the key is, if one is needed
            faults="",  # fake: JSON, fault -> share of the requests
            profile_mode="profile",  # or "focus", "prompt_ranges"
            max_tokens=1024,
            temperature=0.7,
            attempts=3,  # re-asking included
            repair_json=False,
            frames=True,  # caption stills as well, for text-to-image
            consistency=True,  # score captions with the embedder
            concurrency=32,  # requests under way
            requests_per_minute=0,  # quota of the whole run; 0: none
            tokens_per_minute=0,
            workers=1,  # processes of the run, which share the quotas
            breaker=20,  # failures in a row that end the run
            deadline=300.0,  # seconds for one request, repetitions included
        )
    )

    c.extend = ConfigDict(
        dict(
            # Pairs of each task; of Table 7, of which `scale` is taken. The numbers are
            # upper bounds.
            quotas=dict(
                T2T=100_000, T2I=210_000, T2V=879_000, TI2V=89_000, TV2V=35_000,
                I2V=200_000, V2V=36_000,
            ),
            scale=0.0,  # 0: as many as the videos give, in the table's proportions
            spare=2.0,  # of a quota: composed queries written, as some are dropped
            neighbours=5,  # media that share phrases, of which a reference is drawn
            pool=100,  # distractors of the test that a composed query needs both parts
            splits=dict(train=0.98, validation=0.02),  # by source and duplicates
        )
    )  # fmt: skip

    c.mine = ConfigDict(
        dict(
            negatives=dict(T2V=1, TI2V=1, TV2V=1),
            last_rank=50,
            ceiling=0.95,  # of the positive's score
            weak_rank=100,  # a positive below this rank is weak: no negatives
        )
    )

    c.report = ConfigDict(
        dict(samples=12, device_price=0.0)  # price of an accelerator hour, for costs
    )
    return c
