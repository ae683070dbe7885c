"""What is said while runs train."""

from IPython import get_ipython
from tqdm import tqdm

from mnist_lib import experiments, training
from mnist_lib.experiments import Experiment


def progress() -> experiments.Report:
    """What is said while runs train: a bar for each run to a person, a line an epoch to a log."""
    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)  # IPython in a terminal has none
    person = kernel is not None and kernel.get_parent("shell")["content"].get("allow_stdin", False)
    bars: dict[int, tqdm] = {}

    def report(experiment: Experiment, seed: int, epoch: training.Epoch, number: int, seconds: float) -> None:
        line = f"{experiment.name} seed {seed}: train loss {epoch.train_loss:.4f}, {epoch.test_correct} correct"
        if not person:
            print(f"{line}, epoch {number} of {experiment.recipe.epochs}, {seconds:.1f} s", flush=True)
            return
        if seed not in bars:
            bars[seed] = tqdm(total=experiment.recipe.epochs, initial=number - 1, unit="epoch")
        bars[seed].set_description(line)
        bars[seed].update()
        if number == experiment.recipe.epochs:
            bars.pop(seed).close()

    return report
