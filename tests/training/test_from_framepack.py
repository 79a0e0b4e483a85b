"""FramePack-F1 to MemoryPack and back: a folder of diffusers, trained here, that diffusers loads and runs unmodified."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from diffusers.utils.torch_utils import randn_tensor

from tests.training.small_dataset import CODEC, MODEL, make_dataset
from tests.training.test_stage import prepare, run
from tests.training.tiny_pipeline import NUM_STEPS, SIZE_PX, run_pipeline, tiny_pipeline
from training.checkpoint import start_weights
from training.model.weights import export_folder, load_model
from training.run_folder import finished
from training.sampling import roll_out, schedule
from training.stage import StageJob
from training.types import Condition


@pytest.fixture(scope="module")
def framepack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as the tests' model, saved by diffusers."""
    folder = tmp_path_factory.mktemp("framepack")
    torch.manual_seed(7)
    HunyuanVideoFramepackTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(4, 6, 6), has_image_proj=True,
        image_proj_dim=12, has_clean_x_embedder=True,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def teacher(framepack: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """A teacher that began from FramePack, after six steps."""
    dataset = make_dataset(tmp_path_factory.mktemp("dataset"))
    job = prepare(tmp_path_factory.mktemp("run"), "teacher", dataset, init=framepack)
    run(job)
    return job


def test_a_teacher_that_began_from_framepack_trains_all_of_it(teacher: StageJob, framepack: Path) -> None:
    begun = start_weights(MODEL, CODEC, init=framepack, seed=teacher.train.seed).state_dict()
    trained = load_model(teacher.model_folder, dtype=torch.float32)[0].state_dict()
    assert [name for name in begun if torch.equal(begun[name], trained[name])] == []
    summary = finished(teacher)
    assert summary is not None
    assert summary.at_end["val_loss"] < summary.at_start["val_loss"]


def test_the_same_command_finds_its_run_again_and_another_base_is_refused(
    teacher: StageJob, framepack: Path, tmp_path: Path
) -> None:
    dataset = Path(teacher.datasets[0].uri)
    assert finished(prepare(teacher.folder.parent, "teacher", dataset, init=framepack)) is not None
    settings = {"_class_name": "HunyuanVideoFramepackTransformer3DModel", "rope_theta": 256.0}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="weights it began from"):
        prepare(teacher.folder.parent, "teacher", dataset, init=tmp_path)


def test_the_pipeline_of_diffusers_runs_the_export_and_makes_the_first_segment_as_we_do(
    teacher: StageJob, tmp_path: Path, condition_of: Callable[[list[int]], Condition]
) -> None:
    export_folder(teacher.model_folder, tmp_path / "export")
    ours, _ = load_model(tmp_path / "export", dtype=torch.float32)
    theirs, found = HunyuanVideoFramepackTransformer3DModel.from_pretrained(
        tmp_path / "export", output_loading_info=True
    )
    assert not any(found.values())
    start, image_BND, expected = run_pipeline(tiny_pipeline(theirs, shift=7.0), condition_of([4]))
    segments = roll_out(
        ours,
        start,
        replace(condition_of([4]), image_BND=image_BND),
        num_segments=1,
        noise_of=lambda _index: _first_noise(),
        times=schedule(NUM_STEPS, shift=7.0),
        guidance_scale=6.0,
        rope_mode="f1",
    )
    assert expected.shape == (1, 4, 27, 4, 4)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(next(iter(segments)), expected[:, :, :9], rtol=0, atol=1e-5)


def _first_noise() -> torch.Tensor:
    """The pipeline draws the image's posterior first."""
    rng = torch.Generator().manual_seed(5)
    randn_tensor((1, 4, 1, SIZE_PX // 8, SIZE_PX // 8), generator=rng)
    return randn_tensor((1, 4, 9, SIZE_PX // 8, SIZE_PX // 8), generator=rng)
