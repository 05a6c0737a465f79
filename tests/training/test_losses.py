"""Distillation pulls towards the teacher, in the measure that its weight says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeopt.training.losses import DistillationLoss, label_loss, logits_of

INPUTS = [torch.randn(6, 4, generator=torch.Generator().manual_seed(0))]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def test_a_student_that_agrees_has_nothing_to_learn_from_the_teacher(teacher: nn.Module) -> None:
    loss = DistillationLoss(teacher, temperature=3.0, weight=1.0)
    agreeing = logits_of(teacher, INPUTS) + 5  # softmax does not see a common offset
    assert abs(float(loss(INPUTS, LABELS, agreeing).detach())) < 1e-5
    assert float(loss(INPUTS, LABELS, torch.zeros(6, 3))) > 0.01


def test_the_teachers_part_is_the_divergence_of_softened_probabilities(teacher: nn.Module) -> None:
    logits = torch.randn(6, 3)
    wanted = functional.softmax(logits_of(teacher, INPUTS).detach() / 2, 1)
    by_hand = 4 * (wanted * (wanted.log() - functional.softmax(logits / 2, 1).log())).sum(1).mean()
    found = DistillationLoss(teacher, temperature=2.0, weight=1.0)(INPUTS, None, logits)
    torch.testing.assert_close(found, by_hand)


def test_the_weight_divides_between_teacher_and_labels(teacher: nn.Module) -> None:
    logits = torch.randn(6, 3)
    taught, mixed, plain = (DistillationLoss(teacher, 2.0, weight)(INPUTS, LABELS, logits) for weight in (1, 0.25, 0))
    torch.testing.assert_close(plain, label_loss(INPUTS, LABELS, logits))
    torch.testing.assert_close(mixed, 0.25 * taught + 0.75 * plain)


def test_without_labels_the_teacher_has_the_whole_say(teacher: nn.Module) -> None:
    logits = torch.randn(6, 3)
    weights = [DistillationLoss(teacher, 2.0, weight)(INPUTS, None, logits) for weight in (0.25, 1.0)]
    assert torch.equal(weights[0], weights[1])


def test_the_teacher_is_not_taught(teacher: nn.Module) -> None:
    logits = torch.zeros(6, 3, requires_grad=True)
    torch.autograd.backward(DistillationLoss(teacher, 2.0, 0.5)(INPUTS, LABELS, logits))
    assert logits.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
