import torch
from torch import nn

from tests.compression.training.runs import same, spec
from workers.compression.training import finetune
from workers.compression.training.averaging import Average


def test_the_average_is_that_of_the_formula():
    module = nn.BatchNorm1d(1)
    average = Average(module, 0.5)
    expected = 1.0
    for update, weight in enumerate((3.0, 5.0, -2.0, 7.0, 1.0, 0.0, 2.0, 4.0, 9.0)):
        module.weight.data.fill_(weight)
        module.num_batches_tracked += 1
        average.follow(module)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(float(average.values["weight"]), expected, rtol=1e-6, atol=0)
    assert int(average.values["num_batches_tracked"]) == 9


def test_a_long_memory_keeps_more_of_the_beginning(context, digits_network):
    given = {"epochs": 1, "learning_rate": 0.05}
    plain = finetune.run(digits_network, spec(**given), context).network
    averaged = finetune.run(digits_network, spec(**given, ema=0.999), context).network
    assert not same(plain, averaged)
    start, end = (network.module.fc.weight for network in (digits_network, plain))
    assert float((averaged.module.fc.weight - start).detach().norm()) < float((end - start).detach().norm())


def test_zeros_stay_zeros_under_an_average(context, digits_network):
    pruned = digits_network.clone()
    mask = torch.rand(pruned.module.conv2.weight.shape, generator=torch.manual_seed(0)) < 0.5
    pruned.module.conv2.weight.data[mask] = 0
    result = finetune.run(pruned, spec(epochs=1, ema=0.9, mixup=0.2, clip_norm=1.0), context).network
    assert torch.equal(result.module.conv2.weight == 0, mask)
