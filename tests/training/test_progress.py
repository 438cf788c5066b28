"""What the progress bar says."""

import torch

from pefteach.training.history import History
from pefteach.training.progress import progress_bar, show_step


def test_a_step_moves_the_bar_and_shows_loss_speed_and_memory(capsys):
    history = History([{"loss": 1.5, "tokens": 30, "seconds": 2.0}, {"loss": 1.25, "tokens": 30, "seconds": 3.0}])
    with progress_bar("fitting", total=5, initial=1, disable=False) as bar:
        show_step(bar, history, torch.device("cpu"))
        assert bar.n == 2
        bar.refresh()
    said = capsys.readouterr().err
    assert "fitting" in said and "loss=1.250" in said and "tokens_per_s=20" in said and "memory=" in said


def test_without_a_label_there_is_no_bar(capsys):
    assert list(progress_bar(None, iterable=range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
