import pytest
import torch
from torch import nn

from app.domain.errors import ValidationFailed
from app.domain.steps.distill import DerivedStudent, HintPair
from tests.compression.distillation.test_blocks import Encoder
from tests.compression.networks import make
from workers.compression.distillation.hints import Hints, suggest, survey, watching
from workers.compression.distillation.students import derive
from workers.compression.lifting import lift


def pairs_of(teacher, student):
    return [(pair.teacher, pair.student) for pair in suggest(survey(teacher), survey(student))]


def test_stages_of_one_size_are_matched_by_their_last_layers():
    found = pairs_of(make("resnet"), make("resnet_option_a"))
    # 8×8, 4×4 and 2×2 places.
    assert found == [
        ("blocks.0.conv2.1", "blocks.2.conv2.1"),
        ("blocks.1.down.1", "blocks.5.conv2.1"),
        ("blocks.2.down.1", "blocks.8.conv2.1"),
    ]


def test_networks_of_one_size_throughout_are_matched_by_depth(context):
    inputs = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5)
    encoder = lift(torch.export.export(Encoder(mask_first=False).eval(), inputs))
    student = derive(encoder, DerivedStudent(depth=0.5), context).network  # the first and the third of four layers
    assert pairs_of(encoder, student) == [("layers.1.norm2", "layers.0.norm2"), ("layers.3.norm2", "layers.2.norm2")]


def test_a_layer_is_surveyed_with_its_channels_and_places():
    layers = survey(make("resnet"))
    assert (layers["stem.0"].channels, layers["stem.0"].places) == (8, (8, 8))
    assert "fc" not in layers  # it gives the output itself
    wide = survey(make("vit"))["wide"]
    assert (wide.channels, wide.axis, wide.places) == (40, 2, (5,))


def test_a_norm_over_whole_rows_stands_where_its_neighbours_do():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.LayerNorm([5, 4, 6])
            self.tokens, self.fc = nn.LayerNorm([4, 30]), nn.Linear(120, 2)

        def forward(self, x):
            x = self.norm(self.conv(x))
            return self.fc(self.tokens(x.permute(0, 2, 1, 3).reshape(-1, 4, 30)).flatten(1))

    layers = survey(lift(torch.export.export(Normed().eval(), (torch.zeros(2, 3, 4, 6),))))
    assert (layers["norm"].channels, layers["norm"].places) == (5, (4, 6))
    assert (layers["tokens"].channels, layers["tokens"].places) == (30, (4,))


def test_the_loss_is_that_of_the_adapted_features_by_hand():
    teacher, student = make("resnet"), make("resnet_option_a").clone()
    hints = Hints(teacher, student, [HintPair(teacher="blocks.1.conv2.1", student="blocks.4.conv1.1")])
    (adapter,) = hints.attach(student.module)
    assert adapter.weight.shape == (16, 16)
    x = torch.randn(3, 3, 8, 8)
    student.module.train()
    student.module(x)
    with watching(teacher.module, ["blocks.1.conv2.1"]) as features, torch.no_grad():
        teacher.module(x)
        theirs = features.take()
    ours = hints._features.seen["blocks.4.conv1.1"].detach()
    expected = torch.zeros(())
    for row in range(3):
        for place in range(16):
            u = theirs["blocks.1.conv2.1"][row].flatten(1)[:, place]
            expected += (adapter.weight @ ours[row].flatten(1)[:, place] - u).square().sum()
    loss = hints.loss(theirs)
    torch.testing.assert_close(loss, expected.detach() / (2 * 3 * 16 * 16), check_stride=False)
    loss.backward()
    assert adapter.weight.grad.abs().sum() > 0


def test_rows_in_eval_mode_are_not_kept_and_a_closed_hint_watches_nothing():
    student = make("resnet").clone()
    hints = Hints(make("resnet"), student, ())
    hints.attach(student.module)
    with torch.no_grad():
        student.module.eval()(torch.randn(2, 3, 8, 8))
        assert hints._features.seen == {}
        student.module.train()(torch.randn(2, 3, 8, 8))
        assert set(hints._features.seen) == {pair.student for pair in hints.pairs}
        hints._features.take()
        hints.close()
        student.module(torch.randn(2, 3, 8, 8))
    assert hints._features.seen == {}


@pytest.mark.parametrize(("pair", "said"), [
    (("nowhere", "stem.0"), "the teacher has no layer named 'nowhere'"),
    (("stem.0", "fc"), "the student has no layer named 'fc'"),
    (("stem.0", "blocks.1.conv1.0"), r"gives \[4, 4\] places a row, stem.0 of the teacher \[8, 8\]"),
])  # fmt: skip
def test_pairs_that_do_not_fit_are_refused_by_name(pair, said):
    with pytest.raises(ValidationFailed, match=said):
        Hints(make("resnet"), make("resnet"), [HintPair(teacher=pair[0], student=pair[1])])


def test_networks_without_a_size_in_common_are_refused():
    with pytest.raises(ValidationFailed, match="no layers of teacher and student match"):
        Hints(make("vit"), make("mlp"), ())
