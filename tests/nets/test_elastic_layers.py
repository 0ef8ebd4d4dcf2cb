"""One set of weights serves several kernels and widths, and remembers none of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional

from mathnas import InvalidInputError
from mathnas.nets.elastic import ElasticConv2d
from mathnas.nets.mbconv import ElasticMBConv, MBConvChoice
from mathnas.nets.norm import SharedBatchNorm2d


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def depthwise() -> ElasticConv2d:
    conv = ElasticConv2d(4, 4, (7, 3, 5), depthwise=True)
    conv.reset(torch.Generator().manual_seed(1))
    with torch.no_grad():
        conv.get_parameter("7to5_matrix").copy_(drawn(25, 25, seed=2))
        conv.get_parameter("5to3_matrix").copy_(drawn(9, 9, seed=3))
    return conv


def test_the_largest_kernel_is_stored(depthwise: ElasticConv2d) -> None:
    assert torch.equal(depthwise.weight_of(4, 4, 7), depthwise.weight)


def test_a_smaller_kernel_is_the_transformed_centre_of_the_next_larger(
    depthwise: ElasticConv2d,
) -> None:
    """Section 3.2 of once-for-all, written out by hand for one channel."""
    seven = depthwise.weight[2, 0]
    five = depthwise.get_parameter("7to5_matrix") @ seven[1:6, 1:6].reshape(25)
    three = depthwise.get_parameter("5to3_matrix") @ five.reshape(5, 5)[1:4, 1:4].reshape(9)
    torch.testing.assert_close(depthwise.weight_of(4, 4, 5)[2, 0], five.reshape(5, 5))
    torch.testing.assert_close(depthwise.weight_of(4, 4, 3)[2, 0], three.reshape(3, 3))


def test_a_new_layer_takes_the_plain_centre() -> None:
    conv = ElasticConv2d(2, 3, (3, 5))
    conv.reset(torch.Generator().manual_seed(0))
    assert torch.equal(conv.weight_of(2, 3, 3), conv.weight[:, :, 1:4, 1:4])


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(5, 6, 5), (3, 6, 3), (2, 4, 5)])
def test_a_slice_uses_the_first_channels(inputs: int, outputs: int, kernel: int) -> None:
    conv = ElasticConv2d(5, 6, (3, 5), stride=2)
    conv.reset(torch.Generator().manual_seed(0))
    x = drawn(2, inputs, 9, 9)
    border = (5 - kernel) // 2
    weight = conv.weight[:outputs, :inputs, border : 5 - border, border : 5 - border]
    expected = functional.conv2d(x, weight, stride=2, padding=kernel // 2)
    torch.testing.assert_close(conv(x, out_channels=outputs, kernel=kernel), expected)
    static = conv.extract(inputs, out_channels=outputs, kernel=kernel)
    torch.testing.assert_close(static(x), expected)


def test_a_depthwise_slice_keeps_its_channels(depthwise: ElasticConv2d) -> None:
    x = drawn(2, 3, 8, 8)
    expected = functional.conv2d(x, depthwise.weight_of(3, 3, 5), padding=2, groups=3)
    torch.testing.assert_close(depthwise(x, kernel=5), expected)
    torch.testing.assert_close(depthwise.extract(3, kernel=5)(x), expected)


def test_gradients_reach_weights_and_matrices(depthwise: ElasticConv2d) -> None:
    depthwise(drawn(1, 4, 8, 8), kernel=3).square().sum().backward()
    gradients = [parameter.grad for parameter in depthwise.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_an_extracted_convolution_has_its_own_memory() -> None:
    conv = ElasticConv2d(2, 3, (3,))
    conv.reset(torch.Generator().manual_seed(0))
    static = conv.extract(2)
    before = static.weight.clone()
    with torch.no_grad():
        conv.weight.add_(1)
    assert torch.equal(static.weight, before)


def test_extracting_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    ElasticConv2d(2, 3, (3,)).extract(2)
    SharedBatchNorm2d(3).extract(2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("width", "outputs", "kernel", "message"),
    [
        (2, 3, 7, r"kernels \(3, 5\), but 7"),
        (3, 3, 3, "up to 2 inputs and 3 outputs, but 3 and 3"),
        (2, 4, 3, "up to 2 inputs and 3 outputs, but 2 and 4"),
    ],
)
def test_a_form_that_is_not_there_is_refused(
    width: int, outputs: int, kernel: int, message: str
) -> None:
    conv = ElasticConv2d(2, 3, (3, 5))
    with pytest.raises(InvalidInputError, match=message):
        conv(drawn(1, width, 8, 8), out_channels=outputs, kernel=kernel)


def test_impossible_layers_are_refused(depthwise: ElasticConv2d) -> None:
    with pytest.raises(InvalidInputError, match=r"odd and at least 1.*\(2, 3\)"):
        ElasticConv2d(2, 2, (2, 3))
    with pytest.raises(InvalidInputError, match="as many outputs as inputs, but got 2 and 3"):
        ElasticConv2d(2, 3, (3,), depthwise=True)
    with pytest.raises(InvalidInputError, match="as many outputs as inputs, but 4 and 3"):
        depthwise(drawn(1, 4, 8, 8), out_channels=3)


def test_training_normalises_with_the_batch_and_stores_nothing() -> None:
    norm = SharedBatchNorm2d(4).train()
    x = 3 + 2 * drawn(8, 3, 5, 5)
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_var, torch.ones(4))


def test_evaluation_uses_the_first_statistics() -> None:
    norm = SharedBatchNorm2d(4).eval()
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            tensor.copy_(1 + torch.arange(4.0))
    x = drawn(2, 3, 5, 5)
    scale = (1 + torch.arange(3.0)).reshape(1, 3, 1, 1)
    expected = (x - scale) / (scale + 1e-5).sqrt() * scale + scale
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.extract(3)(x), expected)


def test_a_wider_input_than_the_normalisation_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="up to 4 channels, but got 5"):
        SharedBatchNorm2d(4)(drawn(1, 5, 2, 2))


def test_an_unknown_expansion_is_refused() -> None:
    block = ElasticMBConv(4, 4, (3, 5), (1, 3))
    with pytest.raises(InvalidInputError, match=r"expansions \(1, 3\), but 2"):
        block(drawn(1, 4, 8, 8), MBConvChoice(3, 2))


@pytest.mark.parametrize(
    ("stride", "outputs", "shortcut"), [(1, 4, True), (2, 4, False), (1, 6, False)]
)
def test_a_shortcut_stands_where_shapes_agree(stride: int, outputs: int, shortcut: bool) -> None:
    block = ElasticMBConv(4, outputs, (3,), (2,), stride=stride).eval()
    # a new block has no statistics and, without weights, projects to zero
    x = drawn(1, 4, 8, 8)
    y = block(x, MBConvChoice(3, 2))
    assert y.shape == (1, outputs, 8 // stride, 8 // stride)
    assert torch.equal(y, x if shortcut else torch.zeros_like(y))


def test_two_threads_run_two_forms_of_one_block() -> None:
    block = ElasticMBConv(4, 4, (3, 5), (1, 6))
    block.reset(torch.Generator().manual_seed(0))
    block.train()
    x = drawn(4, 4, 8, 8)
    choices = [MBConvChoice(3, 1), MBConvChoice(5, 6)] * 40
    with torch.no_grad():
        alone = [block(x, choice) for choice in choices[:2]] * 40

        def run(choice: MBConvChoice) -> torch.Tensor:
            with torch.no_grad():
                y: torch.Tensor = block(x, choice)
            return y

        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(run, choices))
    for expected, found in zip(alone, together, strict=True):
        torch.testing.assert_close(found, expected)


def sorted_block(*, squeeze: bool = False) -> ElasticMBConv:
    block = ElasticMBConv(4, 4, (3, 5), (2, 3, 6), squeeze=squeeze, act=torch.nn.Hardswish)
    with torch.no_grad():
        for seed, (name, tensor) in enumerate(block.state_dict().items()):
            if tensor.is_floating_point():
                values = drawn(*tensor.shape, seed=seed)
                tensor.copy_(values.abs() + 0.5 if "running_var" in name else values)
    return block.eval()


@pytest.mark.parametrize("squeeze", [False, True])
def test_sorting_channels_changes_the_order_alone(squeeze: bool) -> None:
    block, x = sorted_block(squeeze=squeeze), drawn(2, 4, 8, 8, seed=1)
    with torch.no_grad():
        before = [block(x, MBConvChoice(kernel, 6)) for kernel in (3, 5)]
        block.sort_channels()
        after = [block(x, MBConvChoice(kernel, 6)) for kernel in (3, 5)]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    importance = block.point_linear.conv.weight.abs().sum((0, 2, 3))
    assert torch.equal(importance, importance.sort(descending=True).values)
    if block.depth_conv.se is not None:
        of_gate = block.depth_conv.se.expand.weight.abs().sum((0, 2, 3))
        assert torch.equal(of_gate, of_gate.sort(descending=True).values)


def test_what_was_trained_already_stays_in_front() -> None:
    block = sorted_block()
    before = block.point_linear.conv.weight.detach().clone()
    block.sort_channels(trained=(3,))  # the first 12 of 24 channels
    after = block.point_linear.conv.weight.detach()
    importance = before.abs().sum((0, 2, 3))
    first = importance[:12].argsort(descending=True)
    rest = 12 + importance[12:].argsort(descending=True)
    assert torch.equal(after, before[:, torch.cat([first, rest])])


def test_a_trained_width_computes_the_same_after_sorting_the_rest() -> None:
    block, x = sorted_block(), drawn(2, 4, 8, 8, seed=1)
    with torch.no_grad():
        before = [block(x, MBConvChoice(5, width)) for width in (3, 6, 2)]
        block.sort_channels(trained=(3,))
        after = [block(x, MBConvChoice(5, width)) for width in (3, 6, 2)]
    torch.testing.assert_close(after[:2], before[:2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after[2], before[2])  # never trained: its channels were chosen anew


def test_middle_widths_are_rounded_where_asked_for() -> None:
    block = ElasticMBConv(12, 12, (3,), (3, 6), divisor=8)
    assert [block.middle(MBConvChoice(3, expansion)) for expansion in (3, 6)] == [40, 72]


# ---- cut first, run later ------------------------------------------------------------------------


def test_forms_cut_beforehand_compute_the_same() -> None:
    block, x = sorted_block(squeeze=True), drawn(2, 4, 8, 8, seed=1)
    choices = [MBConvChoice(3, 2), MBConvChoice(5, 6), MBConvChoice(3, 6)]
    for training in (False, True):
        block.train(training)
        forms = [block.cut(choice) for choice in choices]
        for form, choice in zip(forms, choices, strict=True):
            assert torch.equal(block(x, form), block(x, choice))


@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_all_that_a_cut_form_uses(training: bool) -> None:
    """What the smallest form leaves out gets zeros; everything it uses gets a gradient."""
    block, x = sorted_block(squeeze=True).train(training), drawn(2, 4, 8, 8, seed=1)
    (block(x, block.cut(MBConvChoice(3, 2))) * drawn(2, 4, 8, 8, seed=2)).sum().backward()
    gradients = dict(block.named_parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gradients.values())
    expand = block.inverted_bottleneck.conv.weight.grad
    assert expand is not None
    assert not expand[8:].any()


def test_a_run_sees_every_edit_in_place() -> None:
    """No tensor's edit through `.data`, which autograd does not count, leaves a stale copy."""
    block, x = sorted_block(squeeze=True), drawn(2, 4, 8, 8, seed=1)
    choice = MBConvChoice(3, 3)
    assert block.depth_conv.se is not None
    with torch.no_grad():
        for parameter in block.depth_conv.se.parameters():
            parameter.mul_(0.05)  # a gate wide open or shut hides what changes behind it
        before = block(x, choice)
        for name, tensor in block.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.data.mul_(1.5)
                after = block(x, choice)
                assert not torch.equal(after, before), name
                torch.testing.assert_close(block.extract(choice)(x), after)
                before = after


def test_an_input_of_another_width_is_refused() -> None:
    block = sorted_block()
    with pytest.raises(InvalidInputError, match="has 4 input channels, but got 3"):
        block(drawn(1, 3, 8, 8), block.cut(MBConvChoice(3, 2)))
