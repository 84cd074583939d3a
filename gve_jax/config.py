"""Every configuration key, once, with its default and meaning.

An experiment file in `configs/` calls `default_config()` and changes what differs;
command-line flags (`--config.optim.peak_lr=1e-4`) come last. The result is locked: an
unknown key is an error.
"""

import ml_collections
from ml_collections import config_dict


def default_config() -> ml_collections.ConfigDict:
    """The defaults are those of the paper where it states them."""
    c = ml_collections.ConfigDict()
    c.seed = 42

    c.model = m = ml_collections.ConfigDict()
    # Weights to start from: a Hugging Face safetensors folder, a PEFT adapter (merged)
    # or a hub id, ORG/NAME or ORG/NAME@REVISION. Empty: random weights of the
    # architecture below.
    m.init_from = ""
    # Of activations: "float32" or "bfloat16". Empty: float32; of a Hugging Face
    # checkpoint that is only used, bfloat16 on GPU and TPU.
    m.dtype = ""
    # Of the weights that are not trained: "float32", "bfloat16" or "int8" (matrices, a
    # scale for each output; the rest bfloat16). Empty: as in the files of init_from;
    # of a checkpoint that is only used, float32 on CPU, where 16 bits save nothing.
    m.param_dtype = ""
    m.remat = "none"  # "none", "attn_out" (keep attention outputs) or "full"
    m.scan = True  # scan over blocks: small programs; False: faster on CPU
    # "auto": blocked on CPU, splash on TPU, cudnn on GPU; or "dense" or "blocked".
    m.attention = "auto"
    m.trainable = "lora"  # "lora" or "all"
    m.lora = ml_collections.ConfigDict(dict(rank=16, alpha=32.0, dropout=0.1))
    # The architecture when init_from is empty; names as in Hugging Face configs.
    m.vision = ml_collections.ConfigDict(
        dict(
            depth=32,
            hidden_size=1280,
            intermediate_size=3420,
            num_heads=16,
            window_size=112,
            fullatt_block_indexes=(7, 15, 23, 31),
            tokens_per_second=2,
        )
    )
    m.text = ml_collections.ConfigDict(
        dict(
            num_hidden_layers=36,
            hidden_size=2048,
            intermediate_size=11008,
            num_attention_heads=16,
            num_key_value_heads=2,
            mrope_section=(16, 24, 24),
            rope_theta=1e6,
        )
    )

    c.preprocess = p = ml_collections.ConfigDict()
    # Folder with tokenizer.json; empty: that of model.init_from, or, for random
    # weights, a byte-level BPE trained on the pairs' texts.
    p.tokenizer = ""
    p.vocab_size = 4096  # of a trained tokenizer, special tokens included
    # How a published model was asked for its vectors: a name of gve_jax/presets.py.
    # Empty: as the checkpoint says, or its hub id, or else its family.
    p.preset = ""
    # None, in what follows: as the preset has it.
    # Frames of a sample of a video: num_frames; or, if fps is not 0, fps a second, but
    # at least min_frames and at most num_frames.
    p.num_frames = config_dict.placeholder(int)
    p.fps = config_dict.placeholder(float)
    p.min_frames = config_dict.placeholder(int)
    # Pixels of a frame, and of an image unless that has its own budget (not 0).
    p.min_pixels = config_dict.placeholder(int)
    p.max_pixels = config_dict.placeholder(int)
    p.image_min_pixels = config_dict.placeholder(int)
    p.image_max_pixels = config_dict.placeholder(int)
    # Pixels of all frame pairs of a video together; 0: no limit but that of a frame.
    p.total_pixels = config_dict.placeholder(int)
    p.max_tokens = config_dict.placeholder(int)
    # Temporal positions: "real" seconds or "nominal" 1 frame/s.
    p.time = config_dict.placeholder(str)
    p.token_buckets = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    p.patch_buckets = (1024, 2048, 4096, 8192, 16384, 32768)
    # Patch grids (frame groups, rows, columns) that get a bucket of their own,
    # without padding. Worth it where most media have one size.
    p.exact_grids = ()
    p.cache_dir = ""  # decoded and resized frames are kept here; empty: no cache

    c.data = d = ml_collections.ConfigDict()
    d.pairs = ""  # folder of TASK.jsonl files, or one pairs file
    # Instead of `pairs`: task -> its corpus, see gve_jax/data/corpora.py.
    d.corpora = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    d.root = ""  # folder that the corpora lie in
    d.prepared = ""  # folder that they are kept in once read; empty: root/prepared
    # Task -> weight; empty: every task file, weighted by its size.
    d.tasks = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    d.batch_size = 1024  # pairs over all devices
    # Task -> batch size, where it differs.
    d.batch_sizes = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    d.num_negatives = 0  # hard negatives used of each pair that has them
    # Task -> number of hard negatives, where it differs.
    d.nums_negatives = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    # Share of the batches drawn within one cluster of similar pairs, where pairs name
    # clusters: hard batches, in which what the cluster shares is no shortcut.
    d.cluster_share = 0.0
    # Length classes of a task with less than this share of all batches are merged:
    # each is a step shape to compile.
    d.min_share = 0.0
    # Pixels by which the frames of each medium are shifted at random in training.
    d.shift = 0
    # Pairs of each task that are kept from training, with all others of their sources:
    # the curriculum probes them, and recall is measured on them. At most a tenth.
    d.held_out = 0
    d.prefetch = 2  # batches prepared ahead
    d.workers = 16  # threads that read media
    # Share of unreadable pairs, replaced by others of their batch, that stops a run.
    d.max_failed = 0.1
    d.stall_s = 600.0  # seconds without a batch that stop a run; 0: no watchdog

    c.loss = ml_collections.ConfigDict(
        dict(
            temperature=0.03,
            # Where it starts, and the steps in which it falls (by equal factors) to
            # `temperature`. From random weights a low temperature punishes the random
            # spread of scores before anything aligns, and embeddings collapse.
            start_temperature=0.03,
            anneal_steps=0,
            query_weight=0.5,  # of query->target; the rest is target->query
            # Negatives scoring above their positive by more are left out, as probable
            # positives; 2 turns it off.
            mask_margin=0.1,
            # Leave out negatives of another modality than their row's positive.
            modality_mask=False,
            # Added to a negative's logit: this times its score (LLaVE takes 9).
            hardness=0.0,
            # Leading dimensions that, normalised, get a loss of their own; the mean
            # over them and the whole counts.
            matryoshka=(),
            # Weight of the cross entropy to the teacher's scores of pairs that have
            # them.
            distillation=0.0,
            # How devices see each other's rows: "gather" all of them, or pass them
            # around a "ring"; "auto": a ring where gathered rows would be large.
            exchange="auto",
        )
    )

    c.optim = ml_collections.ConfigDict(
        dict(
            name="adamw",  # or "muon": learns faster from random weights
            peak_lr=3e-5,
            end_lr=0.0,
            warmup_steps=0,
            b1=0.9,
            b2=0.999,
            weight_decay=0.1,
            clip_norm=1.0,
        )
    )

    c.curriculum = ml_collections.ConfigDict(
        dict(
            # "static", "pyramid", "pyramid_centred", "odm" or "doremi": how tasks are
            # weighted, anew in each epoch; see gve_jax/data/schedulers.py.
            name="static",
            epochs=3,  # equal parts of train.steps
            # Embedder of the first epoch's probe: a checkpoint or hub id; later ones
            # are probed by the run itself. Empty: by its first weights.
            prober="",
            sigma_start=0.1,  # temperature of the pyramid in the first epoch ...
            sigma_end=1.0,  # ... and in the last
        )
    )

    # Hard negatives of a run's own (`python -m gve_jax.mine` finds them beforehand).
    c.mine = ml_collections.ConfigDict(
        dict(
            # Mine anew with the run's weights at the start of each epoch but the first.
            each_epoch=False,
            # Only targets that score below this share of the positive's score.
            ceiling=0.95,
            # Ranks of a query's results that negatives are drawn from: first and last.
            first_rank=1,
            last_rank=100,
        )
    )

    c.train = ml_collections.ConfigDict(
        dict(
            steps=1000,  # updates of the weights
            accumulate=1,  # batches whose gradients are averaged for an update
            # GradCache: tokens encoded at once on a device, the batch being cut into
            # such chunks; 0: all at once.
            chunk=0,
            log_every=10,
            checkpoint_every=500,
            keep=1,  # newest checkpoints kept
            keep_every=0,  # of these steps, all are kept; 0: none
            # Steps between evaluations, on UVRB if eval.root is set, else on the pairs
            # held out; the best checkpoint is kept too. 0: none.
            eval_every=0,
            # Updates in a row that were skipped, their gradients not being finite, that
            # stop a run.
            max_skipped=10,
            sinks=(),  # also log to "tensorboard", "wandb"
        )
    )

    # Devices along each axis; -1 takes those left over.
    c.mesh = ml_collections.ConfigDict(dict(data=1, fsdp=-1, tensor=1, sequence=1))

    c.embed = ml_collections.ConfigDict(
        dict(
            tokens=8192,  # of a full batch on one device: items are packed to it
            # Processes that read media, which can be killed; 0: threads of this
            # process; -1: a process for each core where a call has 256 media or more.
            decode_workers=-1,
            decode_timeout_s=180.0,  # seconds of one item in a process
            decode_memory_mb=4096,  # megabytes that a process may hold; on Linux
        )
    )

    c.eval = ml_collections.ConfigDict(
        dict(
            root=config_dict.placeholder(str),  # folder of the UVRB datasets
            datasets=(),  # names; empty: all sixteen
            bootstrap=1000,  # resamples of the 95 % intervals
            gallery=5,  # right and wrong queries shown per dataset
            # Media that is absent or unreadable: False refuses the run; True counts
            # it, shows it, and takes the queries that need it as wrong.
            allow_missing=False,
            check_counts=True,  # warn where sizes differ from the published ones
            # Folder of the vectors, which runs may share; empty: OUTPUT/embeddings.
            cache="",
        )
    )
    return c
