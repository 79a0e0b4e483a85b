import pytest
import torch
from torch import Tensor

from training.config import FlowConfig
from training.flow_matching import (
    flow_matching_loss_per_sample,
    flow_sample,
    integrate,
    loss_weight,
    sample_times,
    sigma_to_time,
    timestep_of,
    velocity_of_backbone,
    velocity_to_data,
)

DATA = torch.tensor([[2.0, 4.0], [1.0, -1.0]])
NOISE = torch.tensor([[0.0, -2.0], [3.0, 1.0]])
T = torch.tensor([0.25, 0.5])


def test_a_path_starts_at_noise_and_ends_at_data() -> None:
    ends = torch.tensor([0.0, 1.0])
    x_t = flow_sample(DATA, NOISE, ends).x_t
    torch.testing.assert_close(x_t, torch.stack([NOISE[0], DATA[1]]))


def test_equation_3_mixes_data_and_noise_by_t() -> None:
    torch.testing.assert_close(flow_sample(DATA, NOISE, T).x_t, torch.tensor([[0.5, -0.5], [2.0, 0.0]]))


def test_equation_4_is_data_minus_noise_at_any_time() -> None:
    expected = torch.tensor([[2.0, 6.0], [-2.0, -2.0]])
    for t in (T, 1 - T):
        torch.testing.assert_close(flow_sample(DATA, NOISE, t).target_velocity, expected)


def test_equation_5_is_the_mean_squared_error_in_fp32() -> None:
    velocity, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 1.0]])
    torch.testing.assert_close(flow_matching_loss_per_sample(velocity, target), torch.tensor([2.5, 5.0]))
    losses = flow_matching_loss_per_sample(velocity.bfloat16(), target.bfloat16())
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor([2.5, 5.0]))


def test_a_weighted_loss_counts_as_much_over_all_times() -> None:
    t = (torch.arange(1000) + 0.5) / 1000
    weight = loss_weight(t, "cosmap")
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(weight, weight.flip(0))  # noise and data are alike
    assert weight.argmax() in (499, 500)
    assert loss_weight(t, "none").unique().tolist() == [1.0]


def test_equation_6_sums_velocity_over_time() -> None:
    times = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    seen: list[float] = []

    def field(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return x_t

    # By hand: x grows by the factors 1.2, 1.3 and 1.5.
    torch.testing.assert_close(integrate(field, torch.ones(2, 3), times), torch.full((2, 3), 1.2 * 1.3 * 1.5))
    torch.testing.assert_close(seen, [0.0, 0.2, 0.5])


def test_equation_6_along_the_true_velocity_ends_at_the_data() -> None:
    def field(x_t: Tensor, t: Tensor) -> Tensor:
        return DATA - NOISE

    torch.testing.assert_close(integrate(field, NOISE, torch.linspace(0, 1, 8, dtype=torch.float64)), DATA)


def test_equation_7_steps_to_the_end_at_once() -> None:
    # By hand: 0.5 + 0.75 * 4 and 2 + 0.5 * 2.
    x_t, velocity = torch.tensor([[0.5], [2.0]]), torch.tensor([[4.0], [2.0]])
    torch.testing.assert_close(velocity_to_data(x_t, velocity, T), torch.tensor([[3.5], [3.0]]))


def test_direct_forcing_with_a_perfect_model_reaches_the_data() -> None:
    rng = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(2, 4, 9, 4, 4, generator=rng) for _ in range(2))
    sample = flow_sample(data, noise, T)
    torch.testing.assert_close(velocity_to_data(sample.x_t, sample.target_velocity, T), data)


def test_the_backbone_counts_noise_instead_of_time_and_points_the_other_way() -> None:
    torch.testing.assert_close(timestep_of(torch.tensor([0.0, 0.001, 1.0])), torch.tensor([1000.0, 999.0, 0.0]))
    assert timestep_of(torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float32
    torch.testing.assert_close(velocity_of_backbone(torch.tensor([2.0])), torch.tensor([-2.0]))
    sigma = torch.tensor([0.3, 0.9])
    backbone_x = (1 - sigma[:, None]) * DATA + sigma[:, None] * NOISE
    sample = flow_sample(DATA, NOISE, sigma_to_time(sigma))
    torch.testing.assert_close(sample.x_t, backbone_x)
    torch.testing.assert_close(velocity_of_backbone(NOISE - DATA), sample.target_velocity)


def test_times_are_the_shifted_sigmoid_of_the_numbers_given() -> None:
    normals = torch.tensor([0.0, 1.0, -1.0])
    # sigma = sigmoid(normal) = 1/2 becomes 3 sigma / (1 + 2 sigma) = 3/4.
    times = sample_times(normals, FlowConfig(shift=3.0))
    torch.testing.assert_close(times[0], torch.tensor(0.25))
    assert times[1] < times[0] < times[2]
    torch.testing.assert_close(sample_times(normals, FlowConfig(shift=1.0)), torch.sigmoid(-normals))


def test_one_time_per_sample_is_demanded() -> None:
    with pytest.raises(ValueError, match="one time per sample"):
        flow_sample(DATA, NOISE, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="one time per sample"):
        velocity_to_data(DATA, NOISE, torch.tensor(0.5))
