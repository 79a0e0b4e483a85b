"""The smallest codec, models and conditions of the training tests."""

from collections.abc import Callable

import pytest
import torch

from preprocessing.samples import CodecRecord
from training.config import MemoryConfig, ModelConfig
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.types import Condition


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The models are too small for more: threads cost more than they bring, most of all beside other work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_codec() -> CodecRecord:
    """Sizes of no real codec, all different where they must not be mixed up."""
    return CodecRecord(
        codec_id="tiny",
        latent_channels=4,
        spatial_stride=8,
        text_dim=16,
        text_tokens=6,
        pooled_dim=8,
        image_dim=12,
        image_tokens=5,
        weights_sha256="0" * 64,
        options={},
    )


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return ModelConfig(preset="tiny", memory=MemoryConfig(width=24, num_heads=2))


@pytest.fixture
def tiny_model(tiny_codec: CodecRecord, tiny_config: ModelConfig) -> MemoryPackTransformer3DModel:
    return build_model(tiny_config, tiny_codec, device="cpu", seed=0)


@pytest.fixture
def plain_model(tiny_codec: CodecRecord) -> MemoryPackTransformer3DModel:
    """Without memory: FramePack-F1."""
    config = ModelConfig(preset="tiny", memory=MemoryConfig(enabled=False))
    return build_model(config, tiny_codec, device="cpu", seed=0)


@pytest.fixture(scope="session")
def condition_of(tiny_codec: CodecRecord) -> Callable[[list[int]], Condition]:
    """Makes a condition for clips whose prompts have the given numbers of real tokens."""

    def make(prompt_lengths: list[int]) -> Condition:
        rng = torch.Generator().manual_seed(1)
        batch = len(prompt_lengths)
        mask = torch.arange(tiny_codec.text_tokens)[None] < torch.tensor(prompt_lengths)[:, None]
        return Condition(
            text_BLD=torch.randn(batch, tiny_codec.text_tokens, tiny_codec.text_dim, generator=rng),
            text_mask_BL=mask.long(),
            pooled_BD=torch.randn(batch, tiny_codec.pooled_dim, generator=rng),
            image_BND=torch.randn(batch, tiny_codec.image_tokens, tiny_codec.image_dim, generator=rng),
        )

    return make
