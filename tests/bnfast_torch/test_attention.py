"""Attention and Transformer layers whose dropout is bnfast's, against torch's own."""

from __future__ import annotations

from unittest import mock

import pytest

torch = pytest.importorskip("torch")
door = pytest.importorskip("bnfast.torch")
nn, functional = torch.nn, torch.nn.functional

B, L, S, E = 2, 5, 7, 8  # samples, queries, keys, width


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def undropped(monkeypatch):
    """Dropout of attention that drops nothing, and tells what it was called with."""
    called = mock.Mock(side_effect=lambda x, *args, **options: x)
    inside = door.attention._multi_head_attention_forward.__globals__
    monkeypatch.setitem(inside, "dropout", called)
    monkeypatch.setattr(door.attention, "dropout", called)
    return called


def rate(called):
    """The one rate that dropout was called with."""
    (call,) = called.call_args_list
    return call.kwargs["p"] if call.kwargs else call.args[1]


MASKS = {
    "none": {},
    "bool": {"attn_mask": torch.arange(L)[:, None] >= torch.arange(S) - 2},
    "float": {"attn_mask": torch.linspace(-2, 2, L * S, dtype=torch.float64).view(L, S)},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "nothing to attend to": {"attn_mask": torch.arange(L)[:, None].expand(L, S) > 0},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_it_is_torchs_but_for_dropout(options, undropped):
    q, k, v = (draw(B, 2, n, E).requires_grad_() for n in (L, S, S))
    got = door.scaled_dot_product_attention(q, k, v, dropout_p=0.5, **options)
    want = functional.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(got, want)
    dy = draw(*want.shape)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), dy) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    assert rate(undropped) == 0.5


def test_groups_of_heads_share_keys(undropped):
    q, k, v = draw(B, 4, L, E), draw(B, 2, S, E), draw(B, 2, S, E)
    got = door.scaled_dot_product_attention(q, k, v, dropout_p=0.5, enable_gqa=True)
    want = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(got, want)
    assert rate(undropped) == 0.5


def test_weights_are_dropped_and_scaled():
    q, k = torch.zeros(1, 200, 1), torch.zeros(1, 100, 1)
    v = torch.eye(100)[None]
    weights = 100 * door.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
    kept = weights > 0
    assert 0.74 < kept.float().mean() < 0.76
    torch.testing.assert_close(weights[kept], torch.full((int(kept.sum()),), 4 / 3))


def test_without_dropout_it_is_torchs():
    q = draw(B, L, E)
    got = door.scaled_dot_product_attention(q, q, q)
    assert torch.equal(got, functional.scaled_dot_product_attention(q, q, q))


def test_a_mask_and_causal_are_too_much():
    q, mask = draw(B, L, E), torch.ones(L, L, dtype=torch.bool)
    with pytest.raises(ValueError, match="attn_mask and is_causal"):
        door.scaled_dot_product_attention(q, q, q, mask, 0.5, is_causal=True)


HEADS = {
    "self": {},
    "bias of keys": {"add_bias_kv": True, "add_zero_attn": True},
    "other widths": {"kdim": 6, "vdim": 4},
    "no bias": {"bias": False},
    "positions first": {"batch_first": False},
}


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_is_torchs_but_for_dropout(options, need_weights, undropped):
    options = {"batch_first": True, "dtype": torch.float64} | options
    theirs = nn.MultiheadAttention(E, 2, dropout=0.25, **options)
    ours = door.convert(theirs)
    assert type(ours) is door.MultiheadAttention
    theirs.dropout = 0.0
    q, k, v = draw(B, L, E), draw(B, S, ours.kdim), draw(B, S, ours.vdim)
    if not options["batch_first"]:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    padding = torch.arange(S)[None] >= torch.tensor([[S], [4]])
    got, want = (
        m(q, k, v, key_padding_mask=padding, need_weights=need_weights) for m in (ours, theirs)
    )
    torch.testing.assert_close(got[0], want[0])
    assert got[1] is want[1] is None or torch.allclose(got[1], want[1])
    assert rate(undropped) == 0.25


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_draws_a_mask_of_ours_in_training_only(need_weights, monkeypatch):
    draws = mock.Mock(wraps=door._dropout.draw_seed)
    monkeypatch.setattr(door._dropout, "draw_seed", draws)
    layer = door.convert(nn.MultiheadAttention(E, 2, dropout=0.5))
    x = torch.randn(L, B, E)
    first, second = (layer(x, x, x, need_weights=need_weights)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert draws.call_count == 2
    layer.eval()
    first, second = (layer(x, x, x, need_weights=need_weights)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert draws.call_count == 2


def test_it_compiles():
    layer = door.convert(nn.TransformerEncoderLayer(E, 2, 16, 0.0, dtype=torch.float64))
    x = draw(L, B, E)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


# --- the layers of a Transformer ------------------------------------------------------------------

FORMS = [
    {"norm_first": first, "batch_first": batch, "activation": activation}
    for first, batch, activation in [
        (False, True, "relu"),
        (True, True, "gelu"),
        (False, False, "gelu"),
        (True, False, "relu"),
    ]
]


def pair(kind, options, dropout=0.0):
    """A layer of torch and the same layer converted, in training."""
    theirs = kind(E, 2, 16, dropout, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = door.convert(theirs)
    assert door.left_alone(ours) == {}
    return theirs, ours


def compare(theirs, ours, *inputs, **masks):
    """Results and gradients of inputs and parameters."""
    results = []
    for layer in (theirs, ours):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = layer(*leaves, **masks)
        grads = torch.autograd.grad(y.pow(3).sum(), [*leaves, *layer.parameters()])
        results.append((y, *grads))
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("options", FORMS, ids=lambda o: "-".join(map(str, o.values())))
def test_an_encoder_layer_computes_what_torchs_does(options):
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    padding = torch.arange(L)[None] >= torch.tensor([[L], [3]])
    x = draw(B, L, E) if options["batch_first"] else draw(L, B, E)
    theirs, ours = pair(nn.TransformerEncoderLayer, options)
    compare(theirs, ours, x)
    compare(theirs, ours, x, src_key_padding_mask=padding)
    compare(theirs, ours, x, src_mask=causal, is_causal=True)
    compare(theirs, ours, draw(L, E))  # without samples


@pytest.mark.parametrize("options", FORMS, ids=lambda o: "-".join(map(str, o.values())))
def test_a_decoder_layer_computes_what_torchs_does(options):
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    padding = torch.arange(S)[None] >= torch.tensor([[S], [3]])
    x, memory = draw(B, L, E), draw(B, S, E)
    if not options["batch_first"]:
        x, memory = x.transpose(0, 1), memory.transpose(0, 1)
    theirs, ours = pair(nn.TransformerDecoderLayer, options)
    compare(theirs, ours, x, memory, tgt_mask=causal, memory_key_padding_mask=padding)
    compare(theirs.eval(), ours.eval(), x, memory, tgt_mask=causal, tgt_is_causal=True)


@pytest.mark.parametrize("options", FORMS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_every_dropout_of_a_layer_is_there_and_none_is_torchs(kind, options, monkeypatch):
    """With everything dropped behind attention and perceptron, the residual alone is left."""
    monkeypatch.setattr(functional, "dropout", mock.Mock(side_effect=AssertionError("torch's")))
    _, ours = pair(kind, options, dropout=1.0)
    inputs = [draw(B, L, E)] * (1 if kind is nn.TransformerEncoderLayer else 2)
    want = inputs[0]
    if not options["norm_first"]:
        for norm in (m for m in ours.children() if isinstance(m, nn.LayerNorm)):
            want = functional.layer_norm(want, (E,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(ours(*inputs), want)


def test_evaluation_takes_torchs_fast_path():
    theirs, ours = pair(nn.TransformerEncoderLayer, FORMS[0], dropout=0.5)
    x = draw(B, L, E)
    with (
        torch.no_grad(),
        mock.patch.object(
            torch, "_transformer_encoder_layer_fwd", wraps=torch._transformer_encoder_layer_fwd
        ) as fast,
    ):
        assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert fast.call_count == 2


def test_a_whole_transformer_is_reached():
    theirs = nn.Transformer(E, 2, 2, 2, 16, 0.0, batch_first=True, dtype=torch.float64)
    ours = door.convert(theirs)
    assert door.left_alone(ours) == {}
    compare(theirs, ours, draw(B, S, E), draw(B, L, E))
