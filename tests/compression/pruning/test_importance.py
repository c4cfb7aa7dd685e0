import numpy as np
import torch

from workers.compression.pruning.importance import (
    as_filters,
    bn_scale,
    l1,
    l2,
    pooled,
    random,
    relative,
    score_units,
    taylor,
)


def test_criteria_are_means_over_a_filter():
    filters = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
    assert l1(filters).tolist() == [3.5, 1.0]
    assert torch.allclose(l2(filters), torch.tensor([12.5**0.5, 2**0.5]))


def test_taylor_is_the_sum_of_weight_times_gradient_over_a_filter():
    weights, gradients = torch.randn(4, 6), torch.randn(4, 6)
    slow = [abs(sum(w * g for w, g in zip(*rows, strict=True))) for rows in zip(weights, gradients, strict=True)]
    assert torch.allclose(taylor(weights, gradients), torch.stack(slow))


def test_bn_scale_forgets_the_sign():
    assert bn_scale(torch.tensor([-2.0, 0.0, 1.0])).tolist() == [2, 0, 1]


def test_random_is_drawn_by_the_seed():
    assert random(5, 1).tolist() == random(5, 1).tolist() != random(5, 2).tolist()
    assert len(set(random(50, 1).tolist())) == 50


def test_scores_of_a_layer_do_not_depend_on_its_scale():
    weight = torch.randn(6, 3, 3, 3)
    scores = relative(l2(as_filters(weight, 0)))
    assert np.isclose(scores.mean(), 1)
    assert np.allclose(scores, relative(l2(as_filters(100 * weight, 0))))
    assert np.allclose(scores, relative(l2(as_filters(weight.transpose(0, 1), 1))))
    assert relative(l1(as_filters(torch.zeros(2, 3), 0))).tolist() == [0, 0]


def test_indices_of_one_tensor_count_as_one_member():
    units, scores = pooled(np.array([7, 3, 7, -1]), np.array([1.0, 5.0, 2.0, 9.0]))
    assert dict(zip(units.tolist(), scores.tolist(), strict=True)) == {-1: 9.0, 3: 5.0, 7: 1.5}


def test_a_coupled_unit_scores_as_the_mean_of_its_members():
    units = np.array([3, 7])
    members = [(np.array([3, 7]), np.array([1.0, 2.0])), (np.array([-1, 7]), np.array([9.0, 4.0]))]
    assert score_units(units, members).tolist() == [1.0, 3.0]
