"""Embeds an items file shard by shard, with Beam; what comes out is `gve embed`'s."""
