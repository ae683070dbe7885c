"""What is seen inside of a network, against the same by other means."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from mnist_lib import training
from mnist_lib.experiments import Experiment, runs
from mnist_lib.parameters import Recipe
from mnist_lib.results import inside, page
from support import few_digits, networks

DIGITS = Experiment("mine", Recipe(dataset="digits", epochs=1), networks()["iteration_03_batch_normalisation"])


def test_images_are_as_the_trainer_prepares_them():
    trainer = training.begin(DIGITS.recipe, DIGITS.network, 0, torch.device("cpu"))
    pictures, labels = inside.images(DIGITS, 5, first=3)
    read = []
    trainer.model.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    trainer.trained_correct()  # the network reads all training images, in their order
    torch.testing.assert_close(pictures, read[0][3:8], rtol=0, atol=1e-6)
    assert labels.tolist() == trainer.labels[3:8].tolist()


def test_a_trained_network_makes_the_mistakes_of_its_record(monkeypatch, tmp_store):
    few_digits(monkeypatch)
    (run,) = runs(DIGITS, 1)
    trainer = training.begin(DIGITS.recipe, DIGITS.network, 0, torch.device("cpu"))
    with torch.no_grad():
        answers = inside.trained(DIGITS, run.seed)(trainer.test_images).argmax(1)
    wrong = (answers != trainer.test_labels).nonzero().flatten().tolist()
    assert wrong == [index for index, _, _ in run.misclassified]


def test_how_sure_a_network_is_and_how_often_right(monkeypatch, tmp_store):
    few_digits(monkeypatch)
    runs(DIGITS, 1)
    sure, right = inside.certainty(DIGITS, 4)
    assert sure == sorted(sure) and 10 <= sure[0] < sure[-1] <= 100
    trainer = training.begin(DIGITS.recipe, DIGITS.network, 0, torch.device("cpu"))
    with torch.no_grad():
        logits = inside.trained(DIGITS)(trainer.test_images)
    of_answers = 100 * (logits.max(1).values - logits.logsumexp(1)).exp()
    assert sum(sure) / 4 == pytest.approx(float(of_answers.mean()), abs=0.5)  # the parts are nearly of one size
    part = of_answers.argsort()[: -(-len(logits) // 4)]
    assert right[0] == pytest.approx(100 * float((logits.argmax(1) == trainer.test_labels)[part].float().mean()))


@pytest.mark.parametrize("preparation", ["none", "deskew"])
@pytest.mark.parametrize("images", ["test", "validation"])
def test_images_are_judged_as_a_run_judges_them(monkeypatch, preparation, images):
    few_digits(monkeypatch)
    recipe = dataclasses.replace(DIGITS.recipe, preparation=preparation, evaluate_on=images)
    trainer = training.begin(recipe, DIGITS.network, 0, torch.device("cpu"))
    pictures, labels = inside.evaluated_on(dataclasses.replace(DIGITS, recipe=recipe))
    assert torch.equal(pictures, trainer.test_images) and torch.equal(labels, trainer.test_labels)


def test_spreads_by_hand():
    """Two convolutions that multiply by 2 and by 3: the gradient by the first one's output is three times the other."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 10, 1, bias=False), nn.Conv2d(10, 10, 1, bias=False), nn.Flatten())
    network[1].weight.data = 3 * torch.eye(10)[:, :, None, None]
    network[0].weight.data.fill_(2)
    pictures, labels = torch.randn(50, 1, 1, 1), torch.randint(10, (50,))
    outputs, gradients = inside.spreads(network, pictures, labels)
    assert outputs[1] == pytest.approx(3 * outputs[0])
    assert outputs[0] == pytest.approx(float((2 * pictures).expand(-1, 10, -1, -1).std()), rel=1e-5)
    assert gradients[0] == pytest.approx(3 * gradients[1], rel=1e-5)
    assert not network[0]._forward_hooks, "nothing stays behind"


def test_batch_normalisation_keeps_the_signal_that_fades_without_it():
    pictures, labels = inside.images(DIGITS, 128)
    without, normalised = networks()["iteration_02_light_skeleton"], networks()["iteration_03_batch_normalisation"]
    torch.manual_seed(0)
    fading, _ = inside.spreads(without(), pictures, labels)
    torch.manual_seed(0)
    kept, _ = inside.spreads(normalised(), pictures, labels)
    assert len(fading) == len(kept) == 8
    assert fading == sorted(fading, reverse=True) and fading[0] / fading[-1] > 100
    assert max(kept) / min(kept) < 5


def test_a_gradient_is_the_mean_of_its_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    pictures, labels = inside.images(DIGITS, 64)
    whole = inside.gradient(network, pictures, labels)
    parts = [inside.gradient(network, *each) for each in zip(pictures.split(16), labels.split(16), strict=True)]
    torch.testing.assert_close(whole, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-6)
    functional.cross_entropy(network(pictures), labels).backward()
    torch.testing.assert_close(whole, torch.cat([each.grad.flatten() for each in network.parameters()]))


def test_larger_batches_agree_better_with_all_images():
    torch.manual_seed(0)
    network = page.of_notebook("iteration_06_capacity").network().eval()
    found = inside.agreement(network, *inside.images(DIGITS, 256), [8, 64, 256])
    assert [len(each) for each in found.values()] == [4, 4, 1]
    means = [sum(each) / len(each) for each in found.values()]
    assert means == sorted(means) and means[-1] == pytest.approx(1, abs=1e-5)


def test_maps_are_switched_off_at_the_rates_asked_for_and_the_network_is_left_as_it_was():
    """With nothing dropped it is the network in evaluation mode; with all, every image gets the same scores."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout2d(0.1), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    pictures, _ = inside.images(DIGITS, 100)
    with torch.no_grad():
        taken = network.eval()(pictures).argmax(1)
        blank = network[-1].bias.argmax()
    before = torch.random.get_rng_state()
    whole, some, nothing = inside.with_dropout(network, pictures, taken, [0.0, 0.5, 1.0])
    assert (whole, nothing) == (100.0, 100 * float((taken == blank).double().mean()))
    assert nothing < some < whole
    assert inside.with_dropout(network, pictures, taken, [0.5]) == [some]
    assert torch.equal(before, torch.random.get_rng_state()) and not network.training and not network[1].training
