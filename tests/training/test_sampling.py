from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from tests.training.tiny_pipeline import NUM_SEGMENTS, NUM_STEPS, SIZE_PX, run_pipeline, tiny_pipeline
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.weights import as_diffusers
from training.sampling import denoise, roll_out, schedule
from training.types import Condition

SEGMENT_SHAPE = (1, 4, 9, SIZE_PX // 8, SIZE_PX // 8)


def pipeline_noise() -> list[Tensor]:
    """The pipeline's draws: one for the image's posterior, then one a segment."""
    rng = torch.Generator().manual_seed(5)
    randn_tensor((1, 4, 1, *SEGMENT_SHAPE[3:]), generator=rng)
    return [randn_tensor(SEGMENT_SHAPE, generator=rng) for _ in range(NUM_SEGMENTS)]


def test_the_roll_out_reproduces_the_pipeline_of_diffusers(
    plain_model: MemoryPackTransformer3DModel, condition_of: Callable[[list[int]], Condition]
) -> None:
    given = condition_of([4])
    start, image_BND, expected = run_pipeline(tiny_pipeline(as_diffusers(plain_model), shift=7.0), given)
    condition = Condition(
        text_BLD=given.text_BLD, text_mask_BL=given.text_mask_BL, pooled_BD=given.pooled_BD, image_BND=image_BND
    )
    segments = roll_out(
        plain_model,
        start,
        condition,
        num_segments=NUM_SEGMENTS,
        noise_of=pipeline_noise().__getitem__,
        times=schedule(NUM_STEPS, shift=7.0),
        guidance_scale=6.0,
        rope_mode="f1",
    )
    actual = torch.cat(list(segments), dim=2)
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_the_schedule_is_that_of_diffusers_as_times(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, 6)[:-1])
    times = schedule(5, shift)
    assert times[0] == 0
    assert times[-1] == 1
    torch.testing.assert_close(1 - times.float(), scheduler.sigmas)


def test_denoising_along_a_perfect_velocity_ends_at_the_data() -> None:
    data, noise = torch.randn(2, 1, 4, 9, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(denoise(lambda x_t, t: data - noise, noise, schedule(3, 7.0)), data)


def test_a_segment_depends_on_what_was_generated_before_it_and_on_its_own_noise(
    tiny_model: MemoryPackTransformer3DModel, condition_of: Callable[[list[int]], Condition]
) -> None:
    start = torch.randn(1, 4, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def run(noise_seeds: list[int]) -> list[Tensor]:
        noise = [torch.randn(SEGMENT_SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in noise_seeds]
        return list(
            roll_out(
                tiny_model,
                start,
                condition_of([4]),
                num_segments=3,
                noise_of=noise.__getitem__,
                times=schedule(2, 1.0),
                guidance_scale=1.0,
                rope_mode="relative_start",
            )
        )

    one, other = run([0, 1, 2]), run([0, 7, 2])
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    assert not torch.equal(one[2], other[2])
    assert not any(segment.requires_grad for segment in one)
