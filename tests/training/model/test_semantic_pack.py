from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.config import MemoryConfig, Structure
from training.model.semantic_pack import Memorize, SemanticPack, join_windows, pad_to_multiple, split_windows
from training.types import Condition

CONFIG = MemoryConfig(width=24, num_heads=2)


def make(config: MemoryConfig = CONFIG) -> SemanticPack:
    torch.manual_seed(0)
    return SemanticPack(config, in_channels=4, text_dim=16, image_dim=12, out_features=32)


def segment(seed: int, height: int = 8, width: int = 8, batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, 9, height, width, generator=torch.Generator().manual_seed(seed))


def test_psi_0_is_the_prompt_and_the_image_with_padding_masked(condition_of: Callable[[list[int]], Condition]) -> None:
    memory = make().initial_memory(condition_of([4, 6]))
    assert memory.tokens_BND.shape == (2, 6 + 5, 24)
    assert memory.mask_BN.sum(dim=1).tolist() == [4 + 5, 6 + 5]


def test_zero_memory_has_the_shape_of_psi_0_and_nothing_in_it(condition_of: Callable[[list[int]], Condition]) -> None:
    condition = condition_of([4])
    zero = make(CONFIG.model_copy(update={"init": "zero"})).initial_memory(condition)
    guided = make().initial_memory(condition)
    assert zero.tokens_BND.shape == guided.tokens_BND.shape
    assert not zero.tokens_BND.any()
    assert guided.tokens_BND.any()
    assert torch.equal(zero.mask_BN, guided.mask_BN)


@pytest.mark.parametrize(
    ("height", "width", "num_tokens"), [(8, 8, 3 * 2 * 2), (60, 104, 1170), (10, 6, 3 * 3 * 2), (2, 2, 3)]
)
def test_psi_has_a_constant_number_of_tokens_from_the_first_update(
    height: int, width: int, num_tokens: int, condition_of: Callable[[list[int]], Condition]
) -> None:
    pack, memory = make(), make().initial_memory(condition_of([4]))
    with torch.no_grad():
        for seed in range(3):
            memory = pack.update(memory, segment(seed, height, width))
            assert memory.tokens_BND.shape == (1, num_tokens, 24)
            assert memory.mask_BN.all()
    assert pack.as_context(memory).tokens_BND.shape == (1, num_tokens, 32)


def test_padded_text_never_reaches_psi(condition_of: Callable[[list[int]], Condition]) -> None:
    pack, condition = make(), condition_of([4])
    text = condition.text_BLD.clone()
    text[:, 4:] = 1e3
    other = replace(condition, text_BLD=text)
    one, two = (pack.update(pack.initial_memory(c), segment(0)).tokens_BND for c in (condition, other))
    assert torch.equal(one, two)


def squeezed(pack: SemanticPack, query_ND: Tensor, source_ND: Tensor) -> Tensor:
    """Squeeze of one clip, head by head and without masks: everything it is given is real."""
    for block in pack.squeeze:
        q = block.attention.norm_q(block.attention.to_q(block.norm_query(query_ND)))
        source = block.norm_source(source_ND)
        k, v = block.attention.norm_k(block.attention.to_k(source)), block.attention.to_v(source)
        heads = [
            (q_h @ k_h.T / q_h.shape[1] ** 0.5).softmax(dim=1) @ v_h
            for q_h, k_h, v_h in zip(*(x.chunk(2, dim=1) for x in (q, k, v)), strict=True)
        ]
        query_ND = query_ND + block.attention.to_out(torch.cat(heads, dim=1))
        query_ND = query_ND + block.feed(block.norm_feed(query_ND))
    return query_ND


def psi_by_hand(pack: SemanticPack, condition: Condition, segments: Sequence[Tensor], structure: str) -> Tensor:
    """The recurrence of equation 1 for the three structures of A.1, written down from the text."""
    text = condition.text_BLD[0, condition.text_mask_BL[0].bool()]
    psi = torch.cat([pack.text_in(text), pack.image_in(condition.image_BND[0])])
    for n, x in enumerate(segments):
        visual = pack.memorize(x)[0]
        if structure == "A":
            psi = squeezed(pack, visual, psi)
        elif structure == "C" and n == 0:
            psi = squeezed(pack, torch.cat([psi, visual]), visual)
        else:
            psi = squeezed(pack, psi, visual)
    return psi


@pytest.mark.parametrize("structure", ["A", "B", "C"])
def test_equation_1_for_the_three_structures(
    structure: Structure, condition_of: Callable[[list[int]], Condition]
) -> None:
    pack, condition = make(CONFIG.model_copy(update={"structure": structure, "depth": 2})), condition_of([4])
    segments, psi = [segment(seed) for seed in range(3)], pack.initial_memory(condition)
    for n, x in enumerate(segments):
        psi = pack.update(psi, x)
        real = psi.tokens_BND[0, psi.mask_BN[0].bool()]
        assert psi.num_segments == n + 1
        torch.testing.assert_close(real, psi_by_hand(pack, condition, segments[: n + 1], structure))


@pytest.mark.parametrize(("structure", "num_tokens"), [("A", 12), ("B", 6 + 5), ("C", 6 + 5 + 12)])
def test_psi_has_one_size_from_the_first_update_in_all_structures(
    structure: Structure, num_tokens: int, condition_of: Callable[[list[int]], Condition]
) -> None:
    """6 text and 5 image tokens, of which 2 are padding, and 12 of a segment."""
    pack = make(CONFIG.model_copy(update={"structure": structure}))
    psi = pack.initial_memory(condition_of([4]))
    for seed in range(3):
        psi = pack.update(psi, segment(seed))
        assert psi.tokens_BND.shape == (1, num_tokens, 24)
        assert int((psi.mask_BN == 0).sum()) == (0 if structure == "A" else 2)


@pytest.mark.parametrize("structure", ["A", "B", "C"])
def test_gradients_reach_every_parameter_and_the_first_segment(
    structure: Structure, condition_of: Callable[[list[int]], Condition]
) -> None:
    pack = make(CONFIG.model_copy(update={"structure": structure}))
    first = segment(0).requires_grad_()
    psi = pack.update(pack.initial_memory(condition_of([6])), first)
    for seed in (1, 2):
        psi = pack.update(psi, segment(seed))
    pack.as_context(psi).tokens_BND.square().sum().backward()
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert [name for name, p in pack.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_queries_of_zeros_are_refused() -> None:
    with pytest.raises(ValueError, match="structure B needs init guidance"):
        MemoryConfig(structure="B", init="zero")


def test_psi_remembers_the_last_segment_and_the_ones_before_it(
    condition_of: Callable[[list[int]], Condition],
) -> None:
    pack, psi_0 = make(), make().initial_memory(condition_of([6]))

    def psi_2(first: int, second: int) -> Tensor:
        return pack.update(pack.update(psi_0, segment(first)), segment(second)).tokens_BND

    assert not torch.allclose(psi_2(0, 1), psi_2(0, 2))
    assert not torch.allclose(psi_2(0, 1), psi_2(3, 1), atol=1e-5)


def test_memorize_looks_no_further_than_a_window() -> None:
    torch.manual_seed(0)
    memorize = Memorize(4, CONFIG)
    x, y = segment(0, 16, 16), segment(0, 16, 16)
    y[:, :, :, 8:, 8:] += 1
    with torch.no_grad():
        changed = (memorize(x) != memorize(y)).any(dim=-1).reshape(3, 4, 4)
    assert changed[:, 2:, 2:].all()
    assert not changed[:, :2].any()
    assert not changed[:, :, :2].any()


def test_tokens_that_fill_up_a_window_are_not_seen() -> None:
    """A row of 3 tokens in windows of 2: the last token sees itself alone, as in a window of 1."""
    torch.manual_seed(0)
    wide = Memorize(4, CONFIG.model_copy(update={"window": (1, 1, 2)}))
    alone = Memorize(4, CONFIG.model_copy(update={"window": (1, 1, 1)}))
    alone.load_state_dict(wide.state_dict())
    x = segment(0, 4, 12)
    with torch.no_grad():
        last, expected = wide(x).unflatten(1, (3, 1, 3))[:, :, :, 2], alone(x).unflatten(1, (3, 1, 3))[:, :, :, 2]
    torch.testing.assert_close(last, expected)


def test_a_segment_that_the_kernel_does_not_divide_repeats_its_edge() -> None:
    padded = pad_to_multiple(torch.arange(6.0).reshape(1, 1, 1, 1, 6), (2, 1, 4))
    assert padded.shape == (1, 1, 2, 1, 8)
    assert padded[0, 0, 1, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 5]


def test_joining_windows_undoes_splitting_them() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 5.0).reshape(2, 3, 4, 6, 5)
    windows = split_windows(x, (3, 2, 2))
    assert windows.shape == (2 * 6, 12, 5)
    assert torch.equal(windows[1], x[0, :, :2, 2:4].reshape(12, 5))
    assert torch.equal(join_windows(windows, (3, 2, 2), (3, 4, 6)), x)


def test_clips_of_a_batch_do_not_see_each_other(condition_of: Callable[[list[int]], Condition]) -> None:
    pack, condition = make(), condition_of([3, 6])
    psi = pack.initial_memory(condition)
    both = pack.update(psi, segment(0, batch=2)).tokens_BND
    for i in range(2):
        alone = replace(psi, tokens_BND=psi.tokens_BND[i : i + 1], mask_BN=psi.mask_BN[i : i + 1])
        torch.testing.assert_close(pack.update(alone, segment(0, batch=2)[i : i + 1]).tokens_BND, both[i : i + 1])
