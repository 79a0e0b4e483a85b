import pytest
import torch

from benchmarks.recall_scenes import (
    CHANNELS,
    NUM_SEGMENTS,
    RETURN_SEGMENT,
    SCENES,
    Scene,
    columns_in_sight,
    hidden_tiles,
    scene_batch,
    world_latents,
)
from preprocessing.samples import LATENTS_PER_SEGMENT
from training.model.frame_pack import NUM_HISTORY

FIRST = 1 + LATENTS_PER_SEGMENT * RETURN_SEGMENT


def two_pasts(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips of one world but for the tiles that are hidden at the start."""
    colours = torch.randn(1, CHANNELS, 2, 3, generator=torch.Generator().manual_seed(1))
    other = colours.clone()
    other[..., 0] += 1
    return world_latents(colours, scene)[0], world_latents(other, scene)[0]


@pytest.mark.parametrize("scene", SCENES)
def test_neither_start_image_nor_history_tell_what_comes_back(scene: Scene) -> None:
    left, right = two_pasts(scene)
    assert left.shape[2] == 1 + LATENTS_PER_SEGMENT * NUM_SEGMENTS
    assert torch.equal(left[:, :, :1], right[:, :, :1])
    assert torch.equal(left[:, :, FIRST - NUM_HISTORY : FIRST], right[:, :, FIRST - NUM_HISTORY : FIRST])


@pytest.mark.parametrize("scene", SCENES)
def test_the_first_segment_and_the_last_differ_where_a_hidden_tile_is_seen_and_nowhere_else(scene: Scene) -> None:
    left, right = two_pasts(scene)
    differs = (left != right)[0].all(dim=0)
    assert torch.equal(differs, hidden_tiles(scene))
    assert differs[1 : 1 + LATENTS_PER_SEGMENT].any()
    assert differs[FIRST:].any()


def test_a_pan_moves_the_whole_picture_and_an_object_covers_a_part_of_one_that_stands() -> None:
    colours = torch.randn(1, CHANNELS, 2, 3, generator=torch.Generator().manual_seed(2))
    moved = columns_in_sight()[-1]
    panned, _ = world_latents(colours, "camera")
    torch.testing.assert_close(panned[:, :, -1, :, moved:], panned[:, :, 0, :, :-moved])
    covered, hidden = world_latents(colours, "object")
    assert torch.equal(covered[:, :, -1][..., ~hidden[-1]], covered[:, :, 0][..., ~hidden[-1]])


def test_scenes_take_turns_and_a_key_names_its_clips() -> None:
    batch, again = scene_batch(4, "a", 1), scene_batch(4, "a", 1)
    assert torch.equal(batch.clips.latents_BCTHW, again.clips.latents_BCTHW)
    assert not torch.equal(batch.clips.latents_BCTHW, scene_batch(4, "a", 2).clips.latents_BCTHW)
    for i, name in enumerate(batch.clips.clip_ids):
        scene = SCENES[i % len(SCENES)]
        assert name.startswith(scene)
        assert batch.clips.condition.text_BLD[i, 0, SCENES.index(scene)] == 1
        assert torch.equal(batch.returns_BTHW[i], hidden_tiles(scene)[-LATENTS_PER_SEGMENT:])
