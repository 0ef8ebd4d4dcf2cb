"""Translation networks on shared weights: the same as extracted, step by step, from HAT's files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mathnas import FileFormatError, InvalidInputError
from mathnas.nets.beam_search import BeamSearch, translations
from mathnas.nets.counting import counted_macs, counted_params
from mathnas.nets.extracted import extract_network
from mathnas.nets.hat_checkpoints import load_hat
from mathnas.nets.supertransformer import (
    DecoderLayer,
    SubTransformer,
    SuperTransformerNet,
)
from mathnas.space import Network
from mathnas.spaces import SuperTransformer
from mathnas.text.batches import packed
from mathnas.tokens import END, PAD
from supertransformer_cases import tiny_space

torch.set_num_threads(1)

SPACE = tiny_space(ffn=(8, 16, 24), source=7, target=5)
UNEQUAL = tiny_space(12, 16, decoder_layers=2, projection=8, source=7, target=5, positions=20)


def nets() -> list[SuperTransformerNet]:
    return [SuperTransformerNet(space, seed=3).eval() for space in (SPACE, UNEQUAL)]


def drawn(space: SuperTransformer, count: int) -> list[Network]:
    return [*space.sample(count, seed=0), *SuperTransformerNet(space).extremes()]


def pairs(*lengths: tuple[int, int], vocabulary: int = 30) -> Tensor:
    """Pairs of sentences of (source, target) tokens, ends included, and two columns to spare."""
    generator = torch.Generator().manual_seed(1)

    def sentence(length: int) -> list[int]:
        return [*torch.randint(3, vocabulary, (length - 1,), generator=generator).tolist(), END]

    sources, targets = zip(*((sentence(one), sentence(two)) for one, two in lengths), strict=True)
    return functional.pad(packed(sources, targets)[0], (0, 2), value=PAD)


def test_an_extracted_network_computes_what_the_supernet_does() -> None:
    x = pairs((4, 6), (7, 2), (1, 1))
    for net in nets():
        for network in drawn(net.space, 12):
            with torch.no_grad():
                expected = net(x, network)
                found = net.extract(network)(x)
            assert expected.shape == (9, net.space.vocabulary)
            assert torch.allclose(found, expected, atol=1e-5)
            extract_network(net, network, net.example_inputs(2))


def test_padding_and_other_sentences_change_nothing() -> None:
    net = nets()[0]
    network = net.space.sample(1, seed=4)[0]
    x = pairs((4, 6), (7, 2))
    with torch.no_grad():
        together = net(x, network)
        first, second = net(x[:1], network), net(x[1:], network)
    assert torch.allclose(together, torch.cat([first, second]), atol=1e-5)


def test_a_target_sees_only_what_is_before() -> None:
    net = nets()[0]
    network = net.extremes()[1]
    x = pairs((4, 6))
    y = x.clone()
    y[0, 1, 4] = (y[0, 1, 4] + 1 - 3) % 27 + 3
    with torch.no_grad():
        one, other = net(x, network), net(y, network)
    assert torch.allclose(one[:4], other[:4], atol=1e-6)
    assert not torch.allclose(one[4:], other[4:], atol=1e-3)


def test_decoding_step_by_step_is_decoding_at_once() -> None:
    x = pairs((4, 6), (7, 6))
    for net in nets():
        for network in drawn(net.space, 6):
            static = net.extract(network)
            with torch.no_grad():
                expected = static(x).view(2, 6, -1)
                state = static.start(static.encode(x[:, 0]), beam=2)
                for place in range(6):
                    logits, state = static.step(x[:, 1, place, None].expand(2, 2), state)
                    for target in range(2):
                        assert torch.allclose(logits[:, target], expected[:, place], atol=1e-5)


def test_costs_are_what_torch_counts() -> None:
    """Layers alone: without the embedding, and without the vocabulary's layer."""
    for net in nets():
        space = net.space
        x = net.example_inputs(1)
        vocabulary = space.target * space.decoder_embed * space.vocabulary
        table = space.vocabulary * max(space.encoder_embed, space.decoder_embed)
        for network in drawn(space, 6):
            static = net.extract(network)
            blocks = [node.blocks[i] for node, i in zip(space.nodes, network, strict=True)]
            assert counted_params(static) - table == sum(block.params or 0 for block in blocks)
            with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the fused one
                macs = counted_macs(static, x)
            assert macs - vocabulary == space.macs([network])[0]


def test_networks_of_other_heads_differ() -> None:
    net = nets()[0]
    space = net.space
    x = pairs((4, 6))
    networks = [
        space.check([encoder] * 3 + [decoder, "absent", "absent"])
        for encoder in ("f8_h2", "f8_h4")
        for decoder in ("f8_s2_c2_a-1", "f8_s4_c2_a-1", "f8_s2_c4_a-1", "f8_s2_c2_a1")
    ]
    with torch.no_grad():
        found = [net(x, network) for network in networks]
    for place, one in enumerate(found):
        assert not any(torch.allclose(one, other, atol=1e-4) for other in found[:place])


# ---- beam search --------------------------------------------------------------------------------


def scored(
    network: SubTransformer, source: Tensor, words: tuple[int, ...], penalty: float
) -> float:
    """A translation's score, by running it at once."""
    inputs, labels = packed([source.tolist()], [words])
    with torch.no_grad():
        logits = network(inputs).log_softmax(1)
    total = float(logits.gather(1, labels[:, None]).sum())
    return float(total / len(words) ** penalty)


def everything(length: int) -> list[tuple[int, ...]]:
    """All translations of up to so many tokens over the words 3 and 4."""
    found: list[tuple[int, ...]] = [()]
    whole: list[tuple[int, ...]] = [(END,)]
    for _ in range(length - 1):
        found = [(*one, word) for one in found for word in (3, 4)]
        whole += [(*one, END) for one in found]
    return whole


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5])
def test_a_wide_beam_finds_the_best_translation(penalty: float) -> None:
    """All translations of at most four tokens fit into the beam."""
    space = SuperTransformer(
        8, 8, ffn=(8,), heads=(2,), encoder_layers=3, decoder_layers=2, projection=8, vocabulary=5
    )
    net = SuperTransformerNet(space, seed=5)
    with torch.no_grad():
        net.encoder.embed_tokens.weight[3:] *= 3  # to be far from even
        net.encoder.embed_tokens.weight[:2] = 0  # never better than what is searched
    static = net.extract(net.extremes()[1])
    source = torch.tensor([[3, 4, 4, END]])
    search = BeamSearch(beam=40, length_penalty=penalty, ratio=0, most=4)
    (found,) = search(static, source)
    best = {one.tokens: one.score for one in found}
    assert len(best) == len(found)
    for words in everything(4):
        expected = scored(static, source[0], words, penalty)
        if words in best:
            assert best[words] == pytest.approx(expected, abs=1e-4)
        else:
            assert expected <= found[0].score + 1e-6
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_a_beam_of_one_takes_the_likeliest_token() -> None:
    net = nets()[0]
    static = net.extract(net.space.sample(1, seed=2)[0])
    source = pairs((6, 1))[:1, 0, :6]
    (found,) = BeamSearch(beam=1, most=8, ratio=0)(static, source)
    tokens = [END]
    while len(tokens) < 8:
        x = torch.full((1, 2, 8), PAD)
        x[0, 0, :6], x[0, 1, : len(tokens)] = source[0], torch.tensor(tokens)
        with torch.no_grad():
            logits = static(x)[-1]
        logits[[0, PAD]] = -torch.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == END:
            break
    assert found[0].tokens[:-1] == tuple(tokens[1 : len(found[0].tokens)])


def test_translations_do_not_depend_on_their_batch() -> None:
    net = nets()[0]
    static = net.extract(net.extremes()[1])
    sentences = [[5, 6, 7, END], [8, END], [9, 10, 11, 12, 13, END], [END]]
    together = translations(static, sentences)
    alone = [translations(static, [sentence], tokens_at_once=1)[0] for sentence in sentences]
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_a_search_that_is_told_nonsense_says_so() -> None:
    static = nets()[0].extract(SPACE.sample(1, seed=0)[0])
    with pytest.raises(InvalidInputError, match="at least 1 translation"):
        BeamSearch(beam=0)
    with pytest.raises(InvalidInputError, match="exponent"):
        BeamSearch(length_penalty=99.0)
    with pytest.raises(InvalidInputError, match="end in </s>"):
        BeamSearch()(static, torch.tensor([[5, 6]]))


# ---- HAT's files --------------------------------------------------------------------------------

LAYERS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}


def hat_shapes(embed: int, ffn: int, size: int, words: int, layers: int) -> dict[str, list[int]]:
    """Names and shapes of a public file (search-spaces, 3.4)."""
    found: dict[str, list[int]] = {}
    for part, attentions in LAYERS.items():
        found[f"{part}.version"] = [1]
        found[f"{part}.embed_tokens.weight"] = [words, embed]
        found[f"{part}.embed_positions._float_tensor"] = [1]
        for place in range(layers):
            start = f"{part}.layers.{place}."
            for name in attentions:
                found |= {
                    f"{start}{name}.in_proj_weight": [3 * size, embed],
                    f"{start}{name}.in_proj_bias": [3 * size],
                    f"{start}{name}.out_proj.weight": [embed, size],
                    f"{start}{name}.out_proj.bias": [embed],
                    f"{start}{name}_layer_norm.weight": [embed],
                    f"{start}{name}_layer_norm.bias": [embed],
                }
            found |= {
                f"{start}fc1.weight": [ffn, embed],
                f"{start}fc1.bias": [ffn],
                f"{start}fc2.weight": [embed, ffn],
                f"{start}fc2.bias": [embed],
                f"{start}final_layer_norm.weight": [embed],
                f"{start}final_layer_norm.bias": [embed],
            }
    return found


def test_names_and_shapes_are_those_of_the_public_files() -> None:
    with torch.device("meta"):
        net = SuperTransformerNet(SuperTransformer(640, 640))
    own = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    public = hat_shapes(640, 3072, 512, 32768, 6)
    beyond = {name for name in public if "version" in name or "embed_positions" in name}
    assert own == {
        name: shape
        for name, shape in public.items()
        if name not in beyond and name != "decoder.embed_tokens.weight"
    }


def hat_file(
    path: Path,
    changed: Mapping[str, Tensor] | None = None,
    *,
    old: bool = False,
    half: bool = False,
) -> Path:
    generator = torch.Generator().manual_seed(0)
    shapes = hat_shapes(20, 24, 16, 30, 3)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["decoder.embed_tokens.weight"] = tensors["encoder.embed_tokens.weight"]
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    if old:
        for part, norms in (
            ("encoder", ("self_attn", "final")),
            ("decoder", ("self_attn", "encoder_attn", "final")),
        ):
            for place in range(3):
                for number, norm in enumerate(norms):
                    for kind in ("weight", "bias"):
                        start = f"{part}.layers.{place}."
                        own = tensors.pop(f"{start}{norm}_layer_norm.{kind}")
                        tensors[f"{start}layer_norms.{number}.{kind}"] = own
    tensors |= changed or {}
    extra = {"loss": 1.0, "steps": [1, 2]}
    torch.save({"args": argparse.Namespace(arch="x"), "model": tensors, "extra_state": extra}, path)
    return path


PUBLIC = tiny_space(20, 20)


def of_widths(encoder: int, decoder: int) -> SuperTransformer:
    return tiny_space(encoder, decoder, positions=20)


def test_a_public_file_is_read_with_its_settings_and_old_names(tmp_path: Path) -> None:
    plain = load_hat(hat_file(tmp_path / "a.pt"), PUBLIC)
    aged = load_hat(hat_file(tmp_path / "b.pt", old=True), PUBLIC)
    x = pairs((4, 6), (7, 2))
    network = plain.extremes()[1]
    with torch.no_grad():
        assert torch.equal(plain(x, network), aged(x, network))
    state = torch.load(tmp_path / "a.pt", weights_only=False)["model"]
    own = plain.state_dict()
    assert torch.equal(own["decoder.layers.2.fc1.weight"], state["decoder.layers.2.fc1.weight"])
    halved = load_hat(hat_file(tmp_path / "c.pt", half=True), PUBLIC)
    assert halved.encoder.embed_tokens.weight.dtype == torch.float32


@pytest.mark.parametrize(("encoder", "decoder"), [(16, 16), (16, 20), (20, 12)])
def test_narrower_spaces_take_the_first_channels(
    tmp_path: Path, encoder: int, decoder: int
) -> None:
    file = hat_file(tmp_path / "a.pt")
    narrow = load_hat(file, of_widths(encoder, decoder))
    state = torch.load(file, weights_only=False)["model"]
    layer = narrow.decoder.layers[1]
    assert isinstance(layer, DecoderLayer)
    cross = layer.encoder_attn
    whole = state["decoder.layers.1.encoder_attn.in_proj_weight"]
    memory = torch.randn(1, 5, encoder, generator=torch.Generator().manual_seed(0))
    keys, values = cross.keys_values(memory, 1)
    bias = cross.in_proj_bias
    for found, rows in ((keys, slice(16, 32)), (values, slice(32, 48))):
        expected = memory @ whole[rows, :encoder].T + bias[rows]
        assert torch.allclose(found[0], expected, atol=1e-5)
    # positions are the first columns of the wide table: sines alone up to half of it
    assert narrow.space.positions == 20
    static = narrow.extract(narrow.extremes()[0])
    with torch.no_grad():
        assert static(pairs((4, 6))).isfinite().all()


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="give its space"):
        load_hat(hat_file(tmp_path / "a.pt"))
    another = {"decoder.embed_tokens.weight": torch.zeros(30, 20)}
    file = hat_file(tmp_path / "b.pt", another)
    with pytest.raises(FileFormatError, match="share their embedding"):
        load_hat(file, PUBLIC)
    file = hat_file(tmp_path / "c.pt", {"more": torch.zeros(1)})
    with pytest.raises(FileFormatError, match="nobody knows 1"):
        load_hat(file, PUBLIC)
    with pytest.raises(InvalidInputError, match="make it with vocabulary=30, positions=20"):
        load_hat(file, SPACE)
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "e.pt")
    with pytest.raises(FileFormatError, match="holds no SuperTransformer"):
        load_hat(tmp_path / "e.pt", PUBLIC)
    torch.save({"args": Path(), "model": {}}, tmp_path / "f.pt")
    with pytest.raises(FileFormatError, match="a pickle may run anything"):
        load_hat(tmp_path / "f.pt", PUBLIC)
