import time

import pytest
import torch

from preprocessing.samples import CodecRecord
from training.config import ModelConfig, TrainConfig
from training.speed import Speed, StepClock
from training.types import ClipRow, GlobalStep
from training.workload import Workload, device_peak_flops

CLIP = ClipRow(clip_id="c", dataset="d", shard="s", num_segments=3, height_px=64, width_px=64)
STEP = GlobalStep(step=0, clips=(CLIP, CLIP), num_segments=(3, 2), segment_index=None, use_memory=True)


def test_known_seconds_give_known_speeds(tiny_codec: CodecRecord, tiny_config: ModelConfig) -> None:
    workload = Workload(config=tiny_config, train=TrainConfig(), stage="direct", codec=tiny_codec)
    speed = Speed(workload=workload, num_ranks=2, device=torch.device("cpu"))
    metrics = speed.metrics(STEP, waited_s=0.5, computed_s=2.0)
    assert metrics["step_s"] == 2.5
    assert metrics["data_wait_share"] == pytest.approx(0.2)
    assert metrics["segments_per_s"] == pytest.approx(2.0)  # 3 + 2 segments
    assert metrics["latent_frames_per_s"] == pytest.approx(18.0)
    assert metrics["tflops_per_s"] == pytest.approx(workload.step_flops(STEP) / 2.5e12)
    assert metrics["peak_memory_gb"] > 0.05
    assert "mfu" not in metrics


def test_a_clock_tells_waiting_from_computing() -> None:
    clock = StepClock()
    lazy = (time.sleep(0.05) for _ in range(1))
    for _ in clock.waiting(lazy):
        with clock.computing():
            time.sleep(0.01)
    assert clock.waited_s >= 0.05
    assert 0.01 <= clock.computed_s < clock.waited_s


def test_the_peak_of_a_device_is_known_by_its_name() -> None:
    assert device_peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert device_peak_flops("NVIDIA H200") == 989e12
    assert device_peak_flops("NVIDIA H20") == 148e12
    assert device_peak_flops("some other") is None
