"""The count of arrows and circles, on small made-up structures and on the package."""

import json

import pytest

from pefteach.commands.rooms import rooms
from pefteach.workshop.rooms import arrows, circles, upward

DOWN = {"roof": {"hall", "cellar"}, "hall": {"cellar"}}
ROUND = {
    "roof": {"hall"},
    "hall": {"cellar"},
    "cellar": {"hall"},
    "tower": {"yard"},
    "yard": {"gate"},
    "gate": {"tower"},
}


@pytest.mark.parametrize(
    "structure, found, up", [(DOWN, [], 0), (ROUND, [["cellar", "hall"], ["gate", "tower", "yard"]], 2)]
)
def test_counts_circles_and_the_arrows_that_make_them(structure, found, up):
    assert circles(structure) == found and upward(structure) == up


def test_the_package_has_arrows_and_no_circle(capsys):
    assert "lessons" in arrows()["workshop"] and "model" in arrows()["methods"]
    rooms(json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["upward"] == said["circles"] == 0 and said["arrows"] == sum(map(len, said["imports"].values()))
