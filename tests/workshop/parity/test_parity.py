"""Forward pass, gradients and ten training steps equal the reference library's."""

import pytest

from pefteach.workshop.parity.cases import CASES
from pefteach.workshop.parity.compare import compare

COMPARED = [(name, family) for name, case in CASES.items() for family in case.compared_on]


@pytest.mark.parametrize("name, family", COMPARED)
def test_equals_its_reference(name, family):
    differences = compare(CASES[name], family)
    assert differences.largest <= 1e-5, differences
