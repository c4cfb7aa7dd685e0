import numpy as np
import pytest
import torch

from app.domain.steps.training import Augmentation
from tests.compression.training.runs import same, spec
from workers.compression.training import augmentation, finetune
from workers.compression.training.augmentation import augment, crop, cutout, epoch_generator, flip, mix
from workers.compression.training.criterion import Batch, LabelLoss
from workers.compression.training.loop import fit
from workers.compression.training.update import cut


def images(rows=4, channels=2, height=5, width=6):
    return torch.randn(rows, channels, height, width, generator=torch.manual_seed(0))


def test_flipped_rows_are_mirrored_and_no_others():
    x = images()
    found = flip(x, np.array([True, False, False, True]))
    assert torch.equal(found[[1, 2]], x[[1, 2]])
    assert torch.equal(found[[0, 3]], x[[0, 3]][..., [5, 4, 3, 2, 1, 0]])


def test_a_crop_is_cut_out_of_the_padded_image():
    x, offsets = images(), np.array([[0, 2, 4, 1], [2, 0, 4, 3]])
    found = crop(x, 2, offsets, fill=9.0)
    padded = np.full((4, 2, 9, 10), 9.0, np.float32)
    padded[:, :, 2:7, 2:8] = x.numpy()
    for row, (down, right) in enumerate(offsets.T):
        np.testing.assert_array_equal(found[row], padded[row, :, down : down + 5, right : right + 6])
    assert found.is_contiguous()


def test_a_square_around_a_pixel_is_blanked_out_up_to_the_border():
    x = images()
    # Of 5 rows and 6 columns: pixels (0, 0), (2, 3), (4, 5) and (1, 5).
    centres = np.array([[0.0, 0.4, 0.99, 0.2], [0.0, 0.5, 0.99, 0.9]])
    found, expected = cutout(x, 3, centres, fill=7.0), x.clone()
    for row, (down, right) in enumerate([(0, 0), (2, 3), (4, 5), (1, 5)]):
        expected[row, :, max(0, down - 1) : down + 2, max(0, right - 1) : right + 2] = 7.0
    assert torch.equal(found, expected)


def test_draws_differ_by_row_and_epoch_and_repeat_by_seed():
    x = images(rows=64)
    asked = Augmentation(flip=True, crop=1, cutout=2)

    def changed(seed, epoch):
        return augment(x, asked, epoch_generator(seed, epoch))

    assert torch.equal(changed(0, 1), changed(0, 1))
    assert not torch.equal(changed(0, 1), changed(0, 2))
    assert not torch.equal(changed(0, 1), changed(1, 1))
    alike = augment(x[:1].expand(64, -1, -1, -1).contiguous(), asked, epoch_generator(0, 1))
    assert len(alike.flatten(1).unique(dim=0)) > 32


def test_mixing_takes_shares_of_two_rows():
    x, labels, rows = images(), torch.arange(4), np.array([10, 11, 12, 13])
    mixed = mix(Batch((x,), labels, rows), 0.4, np.random.default_rng(1))
    partners = torch.from_numpy(mixed.partner.rows - 10)
    assert sorted(mixed.partner.rows) == [10, 11, 12, 13]
    assert torch.equal(mixed.partner.labels, labels[partners])
    assert 0 < mixed.share < 1
    torch.testing.assert_close(mixed.batch.inputs[0], mixed.share * x + (1 - mixed.share) * x[partners])
    assert mixed.partner.inputs is mixed.batch.inputs
    assert mixed.batch.changed
    assert mixed.partner.changed


def test_pieces_of_a_mixed_batch_keep_partners_beside_each_other():
    mixed = mix(Batch((images(rows=5),), torch.arange(5), np.arange(5)), 1.0, np.random.default_rng(1))
    pieces = list(cut(mixed, 2))
    assert [len(piece.batch.rows) for piece in pieces] == [3, 2]
    assert all(piece.batch.inputs is piece.partner.inputs for piece in pieces)
    for side in ("batch", "partner"):
        whole = getattr(mixed, side)
        parts = [getattr(piece, side) for piece in pieces]
        assert np.array_equal(np.concatenate([part.rows for part in parts]), whole.rows)
        assert torch.equal(torch.cat([part.inputs[0] for part in parts]), whole.inputs[0])
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert list(cut(mixed, 1)) == [mixed]


class Heard(LabelLoss):
    """Keeps the batches that it is asked about."""

    def loss(self, output, batch):
        HEARD.append(batch)
        return super().loss(output, batch)


HEARD = []


@pytest.mark.parametrize("given", [{"augment": {"flip": True}}, {"mixup": 0.4}, {}])
def test_a_criterion_hears_whether_inputs_are_still_those_of_the_rows(context, digits_network, given):
    HEARD.clear()
    fit(digits_network, spec(epochs=1, **given), context, Heard(context.task))
    assert {batch.changed for batch in HEARD} == {bool(given)}
    (stored,), _ = context.data.gather("train", HEARD[0].rows)
    assert torch.equal(stored, HEARD[0].inputs[0]) is not bool(given)
    assert len(HEARD) == (40 if "mixup" in given else 20)


def test_the_loss_of_a_mixed_batch_is_the_mean_by_shares():
    mixed = mix(Batch((images(),), torch.arange(4), np.arange(4)), 1.0, np.random.default_rng(1))
    logits = torch.randn(4, 4, generator=torch.manual_seed(1))
    log = torch.log_softmax(logits, dim=1)
    soft = torch.zeros(4, 4)
    soft[torch.arange(4), mixed.batch.labels] += mixed.share
    soft[torch.arange(4), mixed.partner.labels] += 1 - mixed.share
    expected = -(soft * log).sum(1).mean()
    one, other = (torch.nn.functional.cross_entropy(logits, side.labels) for side in (mixed.batch, mixed.partner))
    torch.testing.assert_close(torch.lerp(other, one, mixed.share), expected)


def test_augmented_trainings_learn_and_repeat(context, digits_network):
    given = {"epochs": 2, "augment": {"crop": 1, "cutout": 2}, "mixup": 0.2, "ema": 0.9}
    one = finetune.run(digits_network, spec(**given), context)
    assert same(one.network, finetune.run(digits_network, spec(**given), context).network)
    assert not same(one.network, finetune.run(digits_network, spec(epochs=2, ema=0.9), context).network)
    assert max(epoch["accuracy"] for epoch in one.details["epochs"]) > 0.9
    assert augmentation.epoch_generator(0, 1).random() != augmentation.epoch_generator(0, 2).random()
