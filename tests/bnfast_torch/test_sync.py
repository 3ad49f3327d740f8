"""SyncBatchNorm over processes: what one process computes of the whole batch."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")
door = pytest.importorskip("bnfast.torch")
dist, nn = torch.distributed, torch.nn
SyncBatchNorm, BatchNorm2d = door.SyncBatchNorm, door.BatchNorm2d

CHANNELS = 5
# Samples of each rank; a rank may have none.
SIZES = {"even": (4, 4, 4), "uneven": (3, 1, 6), "empty": (4, 0, 3)}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 2e-6, "float64": 1e-12, "bfloat16": 2e-2}
CASES = list(itertools.product(SIZES, DTYPES, ("plain", "fused")))


def batch(sizes, dtype):
    """x and residual of the whole batch, the same on every process, before it is parted."""
    generator = torch.Generator().manual_seed(sum(sizes))
    draws = torch.randn(2, sum(sizes), CHANNELS, 3, 2, generator=generator, dtype=torch.float64)
    return (3.0 + draws).to(dtype)


def layer(made):
    """Parameters that are not those to start with."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.linspace(0.1, 0.5, CHANNELS))
    return made


def step(made, x, residual):
    """Forward and backward of a loss in which no gradient cancels; every result by its name."""
    x = x.clone().requires_grad_()
    y = made(x, residual)
    weight = torch.linspace(-1.0, 2.0, CHANNELS, dtype=y.dtype).view(-1, 1, 1)
    (weight * y * y * y).sum().backward()
    results = {"y": y, "dx": x.grad, "dweight": made.weight.grad, "dbias": made.bias.grad}
    return {k: v.detach().clone() for k, v in (results | dict(made.named_buffers())).items()}


def work(rank, world, folder):
    """What every process does: each case, DDP and a subgroup; it leaves a file of results."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    results = {}
    for name, dtype, form in CASES:
        sizes = SIZES[name][:world]
        x, residual = (part.split(sizes)[rank] for part in batch(sizes, DTYPES[dtype]))
        fused = form == "fused"
        made = layer(SyncBatchNorm(CHANNELS, activation="relu" if fused else None))
        made.double() if dtype == "float64" else None
        results[name, dtype, form] = step(made, x, residual if fused else None)
    pair = dist.new_group([0, 1])
    x = batch((2, 3, 4), torch.float32)[0].split((2, 3, 4))[rank]
    results["pair"] = step(layer(SyncBatchNorm(CHANNELS, process_group=pair)), x, None)
    results["model"] = trained(rank, world)
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(CHANNELS, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def trained(rank, world):
    """A model after a step in DistributedDataParallel, which averages gradients."""
    made = SyncBatchNorm.convert_sync_batchnorm(model())
    x = batch((4,) * world, torch.float32)[0].split(4)[rank]
    return optimised(nn.parallel.DistributedDataParallel(made), x).module.state_dict()


def optimised(made, x):
    optimiser = torch.optim.SGD(made.parameters(), 0.1)
    made(x).square().mean().backward()
    optimiser.step()
    return made


@pytest.fixture(scope="module", params=[2, 3])
def processes(request, tmp_path_factory):
    """Results of every rank."""
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (world, folder), nprocs=world)
    return [torch.load(folder / str(rank)) for rank in range(world)]


class Whole(nn.BatchNorm2d):
    """What one process computes of the whole batch, by torch."""

    def forward(self, x, residual=None):
        y = super().forward(x)
        return y if residual is None else torch.relu(y + residual)


def whole(x, residual=None):
    return step(layer(Whole(CHANNELS)).double(), x, residual)


def compare(ranks, expected, tolerance):
    """Parts follow each other, gradients of parameters add up, and each rank has the statistics."""
    for name, want in expected.items():
        if name in ("y", "dx"):
            got = torch.cat([rank[name] for rank in ranks]).double()
        elif name in ("dweight", "dbias"):
            got = sum(rank[name].double() for rank in ranks)
        else:
            got = ranks[0][name].to(want.dtype)
            assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks)
        assert (got - want).abs().max() <= tolerance * want.abs().max(), name


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_parts_are_those_of_the_whole_batch(processes, case):
    name, dtype, form = case
    x, residual = batch(SIZES[name][: len(processes)], DTYPES[dtype]).double()
    expected = whole(x, residual if form == "fused" else None)
    compare([rank[case] for rank in processes], expected, TOLERANCE[dtype])


def test_only_the_processes_of_a_group_share_statistics(processes):
    parts = batch((2, 3, 4), torch.float32)[0].double().split((2, 3, 4))
    compare([rank["pair"] for rank in processes[:2]], whole(torch.cat(parts[:2])), 2e-6)
    for alone, part in zip(processes[2:], parts[2:], strict=False):
        compare([alone["pair"]], whole(part), 2e-6)


def test_a_model_in_data_parallel_learns_as_one_process_does(processes):
    x = batch((4,) * len(processes), torch.float32)[0]
    expected = optimised(model(), x).state_dict()
    for rank in processes:
        assert rank["model"].keys() == expected.keys()
        for name, want in expected.items():
            torch.testing.assert_close(rank["model"][name], want, rtol=1e-5, atol=1e-6)


def test_without_processes_it_is_batch_norm():
    x, residual = batch((4,), torch.float32)
    got, want = (
        step(layer(kind(CHANNELS, activation="relu")), x, residual)
        for kind in (SyncBatchNorm, BatchNorm2d)
    )
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_convert_sync_batchnorm_keeps_parameters_and_what_a_layer_fuses():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), BatchNorm2d(3, activation="relu"))
    weight, state = net[0].weight, net.state_dict()
    made = SyncBatchNorm.convert_sync_batchnorm(net)
    assert [type(made[i]) for i in (0, 2)] == [SyncBatchNorm] * 2
    assert made[0].weight is weight and made[2].activation == "relu"
    assert made.state_dict().keys() == state.keys()
    alone = SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(3))
    assert type(alone) is SyncBatchNorm
    assert type(door.convert_back(nn.Sequential(alone))[0]) is nn.SyncBatchNorm


def test_x_needs_a_channel_axis():
    with pytest.raises(ValueError, match="expected at least 2"):
        SyncBatchNorm(3)(torch.ones(3))
