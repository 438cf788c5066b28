"""Examples of unequal lengths, and of unequal numbers of tokens that count."""

import pytest

from pefteach.corpus.batches import Example


@pytest.fixture
def examples() -> list[Example]:
    return [Example(tuple(range(3 + i, 10 + i + i % 3)), (False,) * 3 + (True,) * (4 + i % 3)) for i in range(10)]
