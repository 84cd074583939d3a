"""The one protocol of all encoders: `gve_jax.embed.Embedder` has it by itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from gve_jax.embed import EmbedResult
from gve_jax.types import Item


class HasJson(Protocol):
    """A `gve_jax.contract.Contract`, an `Identity`, or what is like them."""

    def to_json(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """The contract of an encoder that is not ours: values for JSON."""

    values: dict[str, Any] = dataclasses.field(hash=False)

    def to_json(self) -> dict[str, Any]:
        return self.values


class Encoder(Protocol):
    """Items to unit vectors.

    Attributes:
      contract: all that the vectors depend on besides their items: vectors are kept
        under it, and equal contracts promise equal vectors.
      dim: numbers of a vector.

    One that is run by several processes together, each of which calls it with the same
    items, says so by an attribute `collective` that is true.
    """

    contract: HasJson
    dim: int

    def embed(
        self, items: Sequence[Item], desc: str = "embed", progress: bool = True
    ) -> EmbedResult:
        """float32 [n, dim] unit rows; NaN rows and their reasons for what it cannot
        read. `desc` names the work in a progress line."""
        ...
