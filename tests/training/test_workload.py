from preprocessing.samples import CodecRecord
from training.config import ModelConfig, TrainConfig
from training.model.costs import segment_flops
from training.types import ClipRow, GlobalStep
from training.workload import Workload

CLIP = ClipRow(clip_id="c", dataset="d", shard="s", num_segments=3, height_px=64, width_px=64)


def step(segment_index: int | None) -> GlobalStep:
    return GlobalStep(step=0, clips=(CLIP, CLIP), num_segments=(3, 3), segment_index=segment_index, use_memory=True)


def test_a_step_counts_its_passes_forward_and_backward(tiny_codec: CodecRecord, tiny_config: ModelConfig) -> None:
    flops = segment_flops(tiny_config, tiny_codec, (64, 64))
    passes = sum(flops.backbone(n) for n in range(3))

    def work(stage: str, segment_index: int | None) -> int:
        workload = Workload(config=tiny_config, train=TrainConfig(), stage=stage, codec=tiny_codec)  # pyright: ignore
        return workload.step_flops(step(segment_index))

    assert work("teacher", 2) == 2 * (3 * flops.segment + 3 * flops.psi(2))
    assert work("direct", None) == 2 * (passes + flops.psi(3))
    assert work("student", None) == 2 * (6 * passes + flops.psi(3))  # five more to make the past


def test_no_backward_pass_goes_through_updates_of_psi_that_no_gradient_reaches(
    tiny_codec: CodecRecord, tiny_config: ModelConfig
) -> None:
    flops = segment_flops(tiny_config, tiny_codec, (64, 64))

    def work(stage: str, trained: str, grad_steps: int | None) -> int:
        train = {"teacher": {"memory_grad_steps": grad_steps}, "direct": {"trained": trained}}
        workload = Workload(
            config=tiny_config,
            train=TrainConfig.model_validate(train),
            stage=stage,
            codec=tiny_codec,  # pyright: ignore
        )
        return workload.step_flops(step(2))

    assert work("direct", "all", None) == work("teacher", "all", None)
    assert work("direct", "all", 1) == work("teacher", "all", 1) == work("teacher", "all", None) - 2 * 2 * flops.psi(1)
    assert work("direct", "head", None) == work("direct", "head", 1) == 2 * (flops.segment + flops.psi(2))
