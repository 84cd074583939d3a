"""Which videos there are: training, groups and evaluation pools, from seed and size."""

from typing import NamedTuple

from data_synthesis.world.groups import Group, sample_group
from data_synthesis.world.scene import Video, Wish, sample_scene, stream

LONG_SHARE = 0.14  # of the training videos have several scenes
GROUP_SHARE = 0.4  # of the single-scene ones come in groups for composed queries
FULL_SIZE = 1000  # training videos from which on the evaluation has its full size


class Pool(NamedTuple):
    """An evaluation pool: videos at full size, scenes of each, what they show."""

    size: int
    scenes: tuple[int, ...]
    wish: Wish


SHOT_OF_MANY = Wish(
    num_things=(1, 1, 2, 2, 3),
    camera=0.25,
    second_event=0.2,
    seconds=(2.5, 3.2),
    steady=True,
)
POOLS = {
    # MSRVTT, MSRVTT-I2V, PEV-K
    "web": Pool(200, (1,), Wish()),
    # CRB-G, CRB-S, CRB-T, DREAM-E
    "care": Pool(
        150, (1,), Wish(num_things=(1, 2, 3, 3, 4), second_event=0.7, other_events=0.6)
    ),
    # VDC-O, VDC-D
    "vdc": Pool(120, (1,), Wish(num_things=(1, 2, 3, 4), seconds=(4.0, 5.5))),
    # CMRB
    "camera": Pool(
        160, (1,), Wish(num_things=(1, 1, 2), camera=0.95, second_event=0.2)
    ),
    # DiDeMo
    "moments": Pool(100, (2, 3), SHOT_OF_MANY),
    # LoVR-V, LoVR-C2V, LoVR-TH
    "long": Pool(100, (4, 5, 6), SHOT_OF_MANY),
}
NUM_GROUPS = 16  # evaluation groups of composed queries at full size
MIN_VIDEOS = 40


class GroupVideos(NamedTuple):
    """A group and the ids of the videos that show it."""

    group: Group
    references: tuple[Video, ...]
    candidates: tuple[Video, ...]


class Plan(NamedTuple):
    """All videos of a world. `train` holds those of `train_groups` too."""

    seed: int
    train: tuple[Video, ...]
    train_groups: tuple[GroupVideos, ...]
    pools: dict[str, tuple[Video, ...]]
    groups: tuple[GroupVideos, ...]

    def evaluation(self) -> list[Video]:
        """Every test video, references of the groups last."""
        found = [v for pool in self.pools.values() for v in pool]
        found += [v for g in self.groups for v in g.candidates]
        return found + [v for g in self.groups for v in g.references]


def make_plan(seed: int, videos: int) -> Plan:
    """The world of `videos` training videos; deterministic."""
    num_long = round(videos * LONG_SHARE)
    num_short = videos - num_long
    train_groups, train = [], []
    per_group = 13
    for g in range(max(1, round(num_short * GROUP_SHARE / per_group))):
        found = _group(seed, "train", "train", g, len(train))
        train_groups.append(found)
        train += [*found.candidates, *found.references]
    for i in range(len(train), num_short):
        wish = _train_wish(i)
        train.append(_video(seed, "train", "train", i, (1,), wish))
    for i in range(num_short, videos):
        scenes = (2, 3) if i % 2 else (4, 5, 6)
        train.append(_video(seed, "train", "train", i, scenes, SHOT_OF_MANY))
    scale = min(1.0, videos / FULL_SIZE)
    pools = {}
    for name, pool in POOLS.items():
        count = max(12, round(pool.size * scale))
        pools[name] = tuple(
            _video(seed, "test", name, i, pool.scenes, pool.wish) for i in range(count)
        )
    groups = tuple(
        _group(seed, "test", "composed", g, g * per_group)
        for g in range(max(2, round(NUM_GROUPS * scale)))
    )
    return Plan(seed, tuple(train), tuple(train_groups), pools, groups)


def _train_wish(index: int) -> Wish:
    """Training videos are drawn like those of the single-scene pools in turn."""
    wishes = [p.wish for p in POOLS.values() if p.scenes == (1,)]
    return wishes[index % len(wishes)]


def _video(seed, split, pool, index, scenes, wish) -> Video:
    rng = stream(seed, "video", pool, index)
    count = rng.choice(scenes)
    return Video(
        f"{pool}_{index:05d}",
        split,
        pool,
        tuple(sample_scene(rng, split, wish) for _ in range(count)),
    )


def _group(seed, split, pool, number, first) -> GroupVideos:
    group = sample_group(stream(seed, "group", pool, number), split)

    def videos(scenes, offset):
        return tuple(
            Video(f"{pool}_{first + offset + k:05d}", split, pool, (scene,))
            for k, scene in enumerate(scenes)
        )

    candidates = videos(group.candidates, 0)
    return GroupVideos(group, videos(group.references, len(candidates)), candidates)
