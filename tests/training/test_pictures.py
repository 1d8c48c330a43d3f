"""What the learning curves show."""

import pytest
from matplotlib.figure import Figure

from training.pictures import draw_curve


@pytest.mark.parametrize(
    ("losses", "top"), [((0.9, 0.4, 0.5), 1.02), ((1.6, 0.7, 0.5), 1.02 * 1.6)]
)
def test_a_loss_above_one_is_not_cut_off(losses, top):
    history = [
        {"epoch": i, "loss": loss, "val_loss": loss - 0.1, "val_dice": 1 - loss}
        for i, loss in enumerate(losses, 1)
    ]
    panel = Figure().subplots()
    draw_curve(panel, history, "loss")
    assert panel.get_ylim() == (0, pytest.approx(top))
