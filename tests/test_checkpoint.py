"""The configuration of a workdir: kept, compared and read back."""

import json

import jax.numpy as jnp
import pytest

from gve_jax import checkpoint
from gve_jax.checkpoint import FREE_KEYS, load_config, save_config, weights_hash
from gve_jax.config import default_config
from gve_jax.types import UserError


def test_config_comes_back_as_it_was(tmp_path):
    config = default_config()
    config.data.tasks = {"T2V": 0.5, "my task": 2}
    config.preprocess.exact_grids = ((2, 4, 4), (1, 4, 4))
    config.data.pairs = "pairs/ü"
    save_config(tmp_path / "run", config)
    back = load_config(tmp_path / "run")
    assert back.eval.root is None  # a placeholder that nobody filled
    assert back.preprocess.exact_grids == ((2, 4, 4), (1, 4, 4))
    assert back.model.vision.fullatt_block_indexes == (7, 15, 23, 31)
    assert back.eval.datasets == ()
    assert back.to_dict() == config.to_dict()
    # And again, so that a copy of a workdir's config resumes it.
    save_config(tmp_path / "run", back)
    save_config(tmp_path / "other", back)
    assert load_config(tmp_path / "other").to_dict() == config.to_dict()


def test_changed_fields_are_named(tmp_path):
    save_config(tmp_path, default_config())
    before = (tmp_path / "config.json").read_text()
    config = default_config()
    config.optim.peak_lr = 1e-4
    config.data.tasks = {"T2V": 1.0}
    config.model.lora.rank = 8
    config.train.log_every = 1  # may change
    with pytest.raises(UserError) as e:
        save_config(tmp_path, config)
    message = str(e.value)
    assert "optim.peak_lr: 3e-05 there, 0.0001 now" in message
    assert "data.tasks.T2V: absent there, 1.0 now" in message
    assert "model.lora.rank: 16 there, 8 now" in message
    assert "log_every" not in message and "config.json" in message
    assert (tmp_path / "config.json").read_text() == before


def test_free_keys_may_change(tmp_path):
    save_config(tmp_path, default_config())
    config = default_config()
    config.data.prefetch, config.data.workers = 7, 3
    config.embed.tokens = 64
    config.eval.root = "/data/uvrb"
    config.eval.datasets = ("MSRVTT",)
    config.mesh.data, config.mesh.fsdp = 4, 2
    config.preprocess.cache_dir = "/cache"
    config.train.update(checkpoint_every=1, keep=9, log_every=1)
    save_config(tmp_path, config)


def test_free_keys_name_what_is_there():
    """A key is free by its whole name, a section by its name and a dot."""
    keys = checkpoint._flat(json.loads(default_config().to_json()))
    for free in FREE_KEYS:
        section = free.endswith(".")
        assert any(k.startswith(free) if section else k == free for k in keys), free


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        load_config(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        save_config(tmp_path, default_config())


def test_weights_hash_sees_values_names_shapes_and_dtypes():
    x = jnp.arange(6.0)
    trees = [
        {"a": x},
        {"b": x},
        {"a": x.at[3].set(-3)},
        {"a": x.reshape(2, 3)},
        {"a": x.astype(jnp.bfloat16)},
        {"a": x, "b": jnp.float32(1)},
        {},
    ]
    hashes = [weights_hash(tree) for tree in trees]
    assert len(set(hashes)) == len(trees)
    assert hashes[0] == weights_hash({"a": jnp.arange(6.0)})
    assert all(len(h) == 16 and int(h, 16) >= 0 for h in hashes)
