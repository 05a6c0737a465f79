"""Where the teacher looks is compared by maps, on the modules that both networks have."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeopt.errors import PassError
from edgeopt.training.features import AttentionLoss, find_features
from edgeopt.training.losses import DistillationLoss, logits_of

IMAGES = [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
LABELS = torch.tensor([0, 1, 2, 0])


class Staged(nn.Module):
    """Three resolutions, and one activation that is run again and again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stage = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.Conv2d(width, width, 3, 2, 1)
        self.relu, self.pool, self.linear = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.stem, self.stage, self.last):
            x = self.relu(layer(x))
        logits: torch.Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def make_loss(student: nn.Module, teacher: nn.Module, weight: float = 1.0) -> AttentionLoss:
    answers = DistillationLoss(teacher, temperature=2.0, weight=1.0)
    return AttentionLoss(answers, student, find_features(student, teacher, IMAGES), weight)


def test_the_last_module_of_each_resolution_is_compared() -> None:
    assert find_features(Staged(4), Staged(8), IMAGES) == ("stem", "stage", "last")


def test_listed_modules_are_taken_as_they_are() -> None:
    assert find_features(Staged(4), Staged(8), IMAGES, ["stage.0"]) == ("stage.0",)


@pytest.mark.parametrize(("name", "hint"), [("stages", "did you mean `stage`?"), ("relu", ""), ("linear", "")])
def test_a_module_without_one_map_is_refused(name: str, hint: str) -> None:
    with pytest.raises(PassError, match=f"`{name}` gives no maps") as caught:
        find_features(Staged(4), Staged(8), IMAGES, [name])
    assert caught.value.hint.startswith(hint)
    assert caught.value.hint


def test_networks_without_a_common_module_are_refused() -> None:
    with pytest.raises(PassError, match="no modules of one name"):
        find_features(nn.Sequential(nn.Conv2d(3, 2, 3)), nn.Sequential(nn.Conv2d(3, 2, 5)), IMAGES)


def test_the_teacher_itself_has_nothing_to_learn() -> None:
    teacher = Staged(8)
    student = copy.deepcopy(teacher)
    loss = make_loss(student, teacher)
    assert abs(float(loss(IMAGES, LABELS, logits_of(student, IMAGES)).detach())) < 1e-6


def test_channels_in_another_order_and_number_look_at_the_same_places() -> None:
    """A student with every channel twice, and louder, has the same maps."""
    teacher, student = Staged(4), Staged(8)
    with torch.no_grad():
        student.stem.weight.copy_(3 * teacher.stem.weight.repeat(2, 1, 1, 1))
        student.stem.bias.copy_(3 * teacher.stem.bias.repeat(2))
    loss = AttentionLoss(DistillationLoss(teacher, 2.0, 1.0), student, ["stem"], 1.0)
    logits = logits_of(student, IMAGES)
    torch.testing.assert_close(loss(IMAGES, LABELS, logits), loss.answers(IMAGES, LABELS, logits))


def test_the_loss_is_the_squared_distance_of_maps_of_length_one() -> None:
    teacher, student = Staged(4), Staged(8)
    loss = AttentionLoss(DistillationLoss(teacher, 2.0, 1.0), student, ["stem"], 2.5)
    logits = logits_of(student, IMAGES)
    maps = [network.stem(IMAGES[0]).square().sum(1).flatten(1) for network in (student, teacher)]
    student_map, teacher_map = (each / each.norm(dim=1, keepdim=True) for each in maps)
    wanted = 2.5 * (student_map - teacher_map).square().sum(1).mean()
    torch.testing.assert_close(loss(IMAGES, LABELS, logits) - loss.answers(IMAGES, LABELS, logits), wanted)


def test_gradients_reach_the_student_below_each_map_and_not_the_teacher() -> None:
    teacher, student = Staged(4), Staged(8)
    loss = make_loss(student, teacher)
    logits = logits_of(student, IMAGES)
    torch.autograd.backward(loss(IMAGES, LABELS, logits) - loss.answers(IMAGES, LABELS, logits))
    assert all(layer.weight.grad is not None for layer in (student.stem, student.stage[1], student.last))
    assert all(parameter.grad is None for parameter in teacher.parameters())
