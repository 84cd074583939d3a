"""What a vision tower asks of its inputs."""

from typing import NamedTuple

Grid = tuple[int, int, int]  # temporal groups, rows and columns of patches


class Geometry(NamedTuple):
    """Sizes and time steps of a vision tower. The defaults are Qwen2.5-VL's."""

    patch_size: int = 14  # pixels along each side of a patch
    merge_size: int = 2  # patches along each side of a merged unit, which is one token
    temporal_patch_size: int = 2  # frames of a patch, and of a temporal group
    window_size: int = 112  # pixels along each side of an attention window; 0: none
    # Temporal positions in one second of video; 0: one for each temporal group.
    tokens_per_second: float = 2
    # Patches come with the extents of their frame, for learned positions.
    extents: bool = False

    @property
    def unit(self) -> int:
        """Patches in a merged unit."""
        return self.merge_size**2

    @property
    def window_area(self) -> int:
        """Patches in a whole attention window; 0: none."""
        return (self.window_size // self.patch_size) ** 2

    @property
    def factor(self) -> int:
        """Pixels along each side of a merged unit; all sides are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Bytes of a patch."""
        return 3 * self.temporal_patch_size * self.patch_size**2


QWEN2_5_VL = Geometry()
