"""Dropout of bnfast.torch: bnfast's masks, drawn from torch's generator, with torch's meaning."""

from __future__ import annotations

import threading

import pytest

from bnfast_torch.cases import DTYPES, F, door, next_mask, torch

NAMES = ["dropout", "dropout1d", "dropout2d", "dropout3d"]
SHAPES = {
    "dropout": [(), (7,), (4, 6, 5)],
    "dropout1d": [(6, 5), (4, 6, 5)],
    "dropout2d": [(4, 6, 5), (4, 6, 5, 3)],
    "dropout3d": [(4, 6, 5, 3), (4, 6, 5, 3, 2)],
}
UNBATCHED = {("dropout1d", 2), ("dropout3d", 4)}
each_shape = pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in NAMES for shape in SHAPES[name]]
)


def expected_mask(name, shape, rate):
    if name == "dropout":
        return next_mask(shape, rate)
    own = (1, *shape) if (name, len(shape)) in UNBATCHED else shape
    mask = next_mask(own, rate, broadcast_axes=tuple(range(2, len(own))))
    return mask.reshape(shape)


@each_shape
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_values_and_gradients(name, shape, dtype, inplace):
    torch.manual_seed(5)
    x = torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
    keep = expected_mask(name, shape, 0.25)
    want = torch.where(keep, x / 0.75, 0)
    given = x * 1
    got = getattr(door, name)(given, 0.25, inplace=inplace)
    torch.testing.assert_close(got, want)
    assert (got is given) == inplace or got.data_ptr() == given.data_ptr()
    dy = torch.randn(shape, dtype=torch.float64).to(dtype)
    torch.testing.assert_close(torch.autograd.grad(got, x, dy), torch.autograd.grad(want, x, dy))


@each_shape
def test_rates_of_zero_and_one_and_evaluation(name, shape):
    function, x = getattr(door, name), torch.ones(shape)
    assert function(x, 0.0) is x
    assert function(x, 0.5, training=False) is x
    assert torch.equal(function(x, 1.0), torch.zeros(shape))


def test_masks_follow_manual_seed_and_differ_from_call_to_call():
    x = torch.ones(1000)
    torch.manual_seed(2)
    first, second = door.dropout(x), door.dropout(x)
    torch.manual_seed(2)
    assert torch.equal(first, door.dropout(x))
    assert not torch.equal(first, second)
    assert abs(float((first == 0).double().mean()) - 0.5) < 0.1


def test_a_call_draws_once():
    x = torch.ones(8, 4)
    for call in (door.dropout, lambda x: door.layer_norm(x, (4,), dropout=0.5)):
        torch.manual_seed(0)
        call(x)
        after = torch.get_rng_state()
        torch.manual_seed(0)
        torch.empty((), dtype=torch.int64).random_()
        assert torch.equal(torch.get_rng_state(), after)


def test_formats_are_kept():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    y = door.dropout(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    assert torch.equal(y, door.dropout(x.contiguous()))
    strided = torch.randn(8, 6)[::2, ::3]
    assert door.dropout(strided, inplace=True) is strided


def test_a_tensor_that_a_graph_keeps_is_not_overwritten_unnoticed():
    x = torch.randn(4, requires_grad=True)
    kept = x * 1
    y = kept.square()
    with torch.no_grad():
        door.dropout(kept, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="leaf"):
        door.dropout(x, inplace=True)


def test_bad_arguments():
    x = torch.ones(2, 3)
    for function in (door.dropout2d, door.dropout3d):
        with pytest.raises(ValueError, match="x has 2 dimensions, expected"):
            function(x)
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="dropout: p is"):
            door.dropout(x, p)
    assert F.dropout(x, 0.0) is not None


def test_seeds_are_drawn_in_and_after_inference_mode():
    """What is kept for drawing belongs to the thread, not to the mode of its first call."""
    drawn = []

    def draw() -> None:
        with torch.inference_mode():
            drawn.append(door.dropout(torch.ones(64)))
        drawn.append(door.dropout(torch.ones(64)))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert len(drawn) == 2 and not torch.equal(*drawn)
