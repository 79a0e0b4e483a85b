import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing import plan_rows, rows
from preprocessing.config import PlanConfig
from preprocessing.plan import (
    at_current_places,
    failed_clips,
    kept_clips,
    latent_bytes,
    nearest_size,
    pending_shards,
    plan,
    still_kept,
)
from preprocessing.samples import CodecRecord, PlannedClip, PlannedShard, ShardRecord, Split, Verdict
from preprocessing.splits import split_of
from tests.preprocessing.test_ledger import kept_table, make_candidate, make_planned, make_scan, make_source, plan_table
from tests.preprocessing.test_ledger import make_clips as decided_clips

FINGERPRINT, OTHER = "0123456789abcdef", "fedcba9876543210"
MIB = 2**20


def make_clips(number: int, **changes: object) -> list[PlannedClip]:
    return [make_planned(f"c{i:03d}", uri=f"videos/{i:03d}.mp4", **changes) for i in range(number)]


def add(
    kept: Sequence[PlannedClip],
    so_far: Sequence[PlannedShard] = (),
    *,
    fingerprint: str = FINGERPRINT,
    **options: object,
) -> tuple[PlannedShard, ...]:
    return add_sized(kept, so_far, bytes_each=MIB, fingerprint=fingerprint, **options)


def add_sized(
    kept: Sequence[PlannedClip],
    so_far: Sequence[PlannedShard] = (),
    *,
    bytes_each: int,
    target_shard_mb: int = 3,
    fingerprint: str = FINGERPRINT,
    **options: object,
) -> tuple[PlannedShard, ...]:
    added = plan(
        kept_table(kept), plan_table(so_far), PlanConfig(target_shard_mb=target_shard_mb, max_samples_per_shard=4),
        latent_bytes=lambda clips: np.full(clips.num_rows, bytes_each), encode_fingerprint=fingerprint, **options,
    )  # fmt: skip
    assert added.schema.equals(plan_rows.PLAN)
    return tuple(plan_rows.shards_of_plan(added))


def pending(
    so_far: Sequence[PlannedShard], encodes: Sequence[ShardRecord], fingerprint: str
) -> tuple[PlannedShard, ...]:
    return tuple(plan_rows.shards_of_plan(pending_shards(plan_table(so_far), encodes, fingerprint)))


def failed(so_far: Sequence[PlannedShard], encodes: Sequence[ShardRecord]) -> dict[str, str]:
    return failed_clips(plan_table(so_far), encodes)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.randoms(use_true_random=False))
def test_every_kept_clip_is_planned_once_in_any_order_and_in_any_steps(
    first: int, second: int, rng: random.Random
) -> None:
    clips = make_clips(max(first, second))
    so_far = add(clips[:first])
    shuffled = clips[:second]
    rng.shuffle(shuffled)
    so_far += add(shuffled, so_far)
    planned = [clip.clip_id for shard in so_far for clip in shard.clips]
    assert sorted(planned) == [clip.clip_id for clip in clips]
    assert add(clips, so_far) == ()
    assert len({shard.key for shard in so_far}) == len(so_far)


def test_equal_clips_in_another_order_give_equal_shards() -> None:
    clips = make_clips(10)
    assert add(clips) == add(clips[::-1])


def test_a_shard_is_full_at_its_size_or_its_number_of_samples() -> None:
    assert [len(shard.clips) for shard in add(make_clips(7))] == [3, 3, 1]
    small = add_sized(make_clips(9), bytes_each=1)
    assert [len(shard.clips) for shard in small] == [4, 4, 1]


def test_a_clip_larger_than_a_shard_stands_alone() -> None:
    large = add_sized(make_clips(2), bytes_each=5 * MIB, target_shard_mb=1)
    assert [len(shard.clips) for shard in large] == [1, 1]


def test_a_shard_holds_one_size_in_order_of_the_sources() -> None:
    wide = [replace(clip, width_px=128) for clip in make_clips(2)]
    tall = make_clips(4)[2:]
    shards = add(wide + tall)
    assert [(shard.bucket, [clip.clip_id for clip in shard.clips]) for shard in shards] == [
        ("64x64-1", ["c002", "c003"]),
        ("64x128-1", ["c000", "c001"]),
    ]


def test_a_shard_holds_clips_of_about_one_length() -> None:
    lengths = (40, 1, 3, 12, 4, 2, 41)
    clips = [replace(clip, num_segments=n) for clip, n in zip(make_clips(7), lengths, strict=True)]
    assert [(shard.bucket, [clip.num_segments for clip in shard.clips]) for shard in add(clips)] == [
        ("64x64-1", [1]),
        ("64x64-2to4", [3, 4, 2]),
        ("64x64-11to40", [40, 12]),
        ("64x64-41up", [41]),
    ]


def test_names_carry_the_encode_fingerprint_and_a_new_one_plans_all_again() -> None:
    clips = make_clips(3)
    old = add(clips)
    new = add(clips, old, fingerprint=OTHER)
    assert old[0].name.startswith("01234567-")
    assert new[0].name.startswith("fedcba98-")
    assert pending((*old, *new), (), OTHER) == new


def test_a_changed_file_or_caption_is_planned_again_under_another_name() -> None:
    clips = make_clips(1)
    so_far = add(clips)
    for changed in (replace(clips[0], content_id="2-2"), replace(clips[0], caption="a cat")):
        (added,) = add([changed], so_far)
        assert added.key != so_far[0].key
        assert add([changed], (*so_far, added)) == ()


def test_names_do_not_depend_on_time_stamps() -> None:
    clips = make_clips(3)
    copied = [replace(clip, content_id="9-9", location="/copy/a.mp4") for clip in clips]
    assert [shard.key for shard in add(clips)] == [shard.key for shard in add(copied)]


def test_a_failed_clip_is_planned_again_only_when_asked_for_and_once() -> None:
    clips = make_clips(3)
    so_far = add(clips)
    record = ShardRecord(
        key=so_far[0].key, sha256="s", size=1, clip_ids=("c000", "c002"), failed={"c001": "decoding died"}
    )
    assert add(clips, so_far) == ()
    assert failed(so_far, [record]) == {"c001": "decoding died"}
    (again,) = add(clips, so_far, retry=failed(so_far, [record]))
    assert [clip.clip_id for clip in again.clips] == ["c001"]
    assert failed((*so_far, again), [record]) == {}
    assert pending((*so_far, again), [record], FINGERPRINT) == (again,)
    twice = ShardRecord(key=again.key, sha256="", size=0, clip_ids=(), failed={"c001": "again"})
    assert failed((*so_far, again), [record, twice]) == {"c001": "again"}


def test_a_retry_of_a_whole_shard_gets_another_name() -> None:
    clips = make_clips(2)
    so_far = add(clips)
    (again,) = add(clips, so_far, retry={"c000", "c001"})
    assert again.clips == so_far[0].clips
    assert again.key != so_far[0].key


def test_a_shard_is_wanted_whole_while_one_of_its_clips_is_kept_as_it_is_planned() -> None:
    clips = make_clips(7)
    first, second, third = add(clips)
    so_far = plan_table((first, second, third))

    def wanted(*kept: PlannedClip) -> tuple[PlannedShard, ...]:
        return tuple(plan_rows.shards_of_plan(still_kept(so_far, kept_table(kept))))

    assert wanted(*clips) == (first, second, third)
    assert wanted(clips[1], clips[6]) == (first, third)
    assert wanted(*(replace(clip, fps=12.0) for clip in clips[:3]), clips[3]) == (second,)
    assert wanted(replace(clips[0], content_id="2-2")) == wanted() == ()


def test_a_planned_clip_is_read_where_its_source_is_now_and_stays_what_it_is() -> None:
    planned = plan_table(add([*make_clips(2, source_id="s1"), make_planned("other", source_id="s2")]))
    sources = pa.table({"source_id": ["s1"], "location": ["/other/a.mp4"]})
    found = at_current_places(planned, sources)
    assert found.schema.equals(planned.schema)
    assert found.drop_columns(["location"]).equals(planned.drop_columns(["location"]))
    places = dict(zip(found["clip_id"].to_pylist(), found["location"].to_pylist(), strict=True))
    assert places == {"c000": "/other/a.mp4", "c001": "/other/a.mp4", "other": "/raw/a.mp4"}


def test_kept_clips_know_their_source_and_their_size() -> None:
    source = make_source("a", caption="a dog", licence="CC0")
    sources = pa.Table.from_pylist([rows.source_row(make_scan(source), fingerprint="f", part=0)], schema=rows.SOURCES)
    clips = decided_clips([make_candidate(source, 3), make_candidate(source, 4)], [Verdict.KEEP, Verdict.DROP])
    (kept,) = plan_rows.planned_clips(kept_clips(sources, clips, [(64, 64), (48, 64)], eval_percent=50))
    assert (kept.height_px, kept.width_px) == (48, 64)
    assert (kept.caption, kept.licence, kept.location, kept.content_id) == ("a dog", "CC0", source.location, "1-1")
    assert (kept.clip_index, kept.scores) == (3, {"dynamism": 1.5, "black_share": 0.0})


def test_kept_clips_stand_in_the_split_of_the_group_that_their_source_has_now() -> None:
    def split(group_id: str) -> Split:
        source = make_source("a", group_id=group_id)
        sources = pa.Table.from_pylist(
            [rows.source_row(make_scan(source), fingerprint="f", part=0)], schema=rows.SOURCES
        )
        decided_before = decided_clips([make_candidate(source, 0)], [Verdict.KEEP])
        (kept,) = plan_rows.planned_clips(kept_clips(sources, decided_before, [(64, 64)], eval_percent=50))
        return kept.split

    groups = [f"film {k}" for k in range(8)]
    assert [split(group) for group in groups] == [split_of(group, 50) for group in groups]
    assert {split(group) for group in groups} == set(Split)


@pytest.mark.parametrize(
    ("height_px", "width_px", "expected"),
    [(1080, 1920, (352, 640)), (1920, 1080, (640, 352)), (500, 500, (480, 480)), (100, 1000, (352, 640))],
)
def test_the_nearest_aspect_ratio_wins(height_px: int, width_px: int, expected: tuple[int, int]) -> None:
    assert nearest_size(height_px, width_px, [(480, 480), (352, 640), (640, 352)]) == expected


def test_the_size_of_latents_is_known_beforehand() -> None:
    codec = CodecRecord(
        codec_id="dct", latent_channels=16, spatial_stride=8, text_dim=8, text_tokens=4, pooled_dim=4, image_dim=4,
        image_tokens=4, weights_sha256="", options={},
    )  # fmt: skip
    clips = [make_planned("a", num_segments=2), make_planned("b", width_px=128)]
    assert latent_bytes(kept_table(clips), codec).tolist() == [2 * 16 * 19 * 8 * 8, 2 * 16 * 10 * 8 * 16]
