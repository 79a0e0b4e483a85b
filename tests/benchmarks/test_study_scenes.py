"""The study's clips."""

from dataclasses import replace

import numpy as np

from benchmarks.study_scenes import CODEC, FORM, clip_set, random_shot
from preprocessing.rendering.shots import caption, shot_frames


def test_the_caption_tells_where_things_go_and_the_start_frame_does_not() -> None:
    right = replace(random_shot(np.random.default_rng(0)), camera="pans right")
    left = replace(right, camera="pans left")
    videos = [shot_frames(shot, np.random.default_rng(1), 25, FORM) for shot in (right, left)]
    assert np.array_equal(videos[0][0], videos[1][0])
    assert not np.array_equal(videos[0][-1], videos[1][-1])
    texts = [CODEC.encode_text(caption(shot)).llama_LD for shot in (right, left)]
    assert not np.array_equal(*texts)


def test_things_have_a_colour_that_the_texture_lacks() -> None:
    for seed in range(20):
        shot = random_shot(np.random.default_rng(seed))
        assert shot.things[0].colour not in (shot.dark, shot.light)
        assert shot.dark != shot.light


def test_a_clip_depends_on_its_set_s_name_seed_and_number_alone() -> None:
    few, more = (clip_set("a", 1, num_clips=count, num_segments=1) for count in (1, 2))
    first = few.rows[0]
    assert np.array_equal(few.read(first).latents_CTHW, more.read(first).latents_CTHW)
    for name, seed in (("b", 1), ("a", 2)):
        other = clip_set(name, seed, num_clips=1, num_segments=1)
        assert not np.array_equal(few.read(first).latents_CTHW, other.read(other.rows[0]).latents_CTHW)
