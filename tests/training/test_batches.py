"""Batches: every example once a round."""

from pefteach.training.batches import batches_of


def test_every_example_once_a_round(examples):
    batch = batches_of(examples, 5, seed=0)
    seen = [int(i) for step in (0, 1) for i in batch(step)["input_ids"][:, 0]]
    assert sorted(seen) == [e.ids[0] for e in examples]
    again = [int(i) for step in (2, 3) for i in batch(step)["input_ids"][:, 0]]
    assert sorted(again) == sorted(seen) and again != seen
