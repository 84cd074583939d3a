"""A small, fully known video world: scene graphs, renders, captions, benchmark.

`python -m data_synthesis.world --output=DIR --seed=0 --videos=2000`
"""
