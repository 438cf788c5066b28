"""Mean cross entropy of the next token, over the tokens that count."""

from collections.abc import Iterator

import torch

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    batch, tokens, vocabulary = 3, draw.integer(6, 9), draw.integer(10, 12)
    labels = torch.randint(1, vocabulary, (batch, tokens), generator=draw.generator)
    labels[0, :2] = -100  # a prompt: as many tokens as you like, but not the same in every row
    labels[1, -3:] = -100  # padding
    labels[2, 3] = 0  # token 0 is a token like any other
    yield {"logits": 2 * draw.normal(batch, tokens, vocabulary), "labels": labels}


EXERCISE = Exercise(
    name="next_token_loss",
    title="The loss that counts",
    minutes=10,
    level="core",
    statement="""
Position $t$ predicts the token at $t + 1$. The label $-100$ marks tokens that don't count (the prompt, the padding): no
one has to predict them. The loss is the mean cross entropy over all tokens that count, of all rows together.
""",
    code='''
def next_token_loss(logits, labels):
    """Mean cross entropy of the next token.

    logits (batch, tokens, vocabulary); labels (batch, tokens): the tokens themselves, or -100 where they don't count.
    Returns one number, as a tensor.
    """
    ### BEGIN SOLUTION
    predicted, wanted = logits[:, :-1], labels[:, 1:]
    counts = wanted != -100
    return F.cross_entropy(predicted[counts], wanted[counts])
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "no shift",
            {"logits[:, :-1], labels[:, 1:]": "logits, labels"},
            "Each position is asked for its own token, which it has just read. It predicts the next one: shift the "
            "labels "
            "by one.",
        ),
        Mistake(
            "shifted back",
            {"logits[:, :-1], labels[:, 1:]": "logits[:, 1:], labels[:, :-1]"},
            "The shift goes the wrong way: each position is asked for the token before it.",
        ),
        Mistake(
            "shifted twice",
            {"logits[:, :-1], labels[:, 1:]": "logits[:, :-2], labels[:, 2:]"},
            "The labels are shifted by two, so each position predicts the token after the next. It happens when the "
            "data "
            "are shifted already and the model shifts again.",
        ),
        Mistake(
            "padding counted",
            {"counts = wanted != -100": "wanted = wanted.clamp(min=0)\n    counts = wanted >= 0"},
            "The tokens marked -100 are counted as if they were token 0. The model would learn to predict padding.",
        ),
        Mistake(
            "token 0 skipped",
            {"wanted != -100": "wanted > 0"},
            "Token 0 is skipped too. Only the label -100 means that a token does not count.",
        ),
        Mistake(
            "divided by all",
            {"wanted[counts])": 'wanted[counts], reduction="sum") / wanted.numel()'},
            "The sum is divided by all positions. Divide by those that count, or a long prompt makes the loss look "
            "small.",
        ),
        Mistake(
            "mean of row means",
            {
                "return F.cross_entropy(predicted[counts], wanted[counts])": "rows = zip(predicted, wanted, counts)\n"
                "    return sum(F.cross_entropy(p[c], w[c]) for p, w, c in rows) / len(logits)"
            },
            "Each row is averaged first, so a token in a short row weighs more than one in a long row. Take one mean "
            "over "
            "all tokens that count.",
        ),
        Mistake(
            "softmax twice",
            {"predicted[counts],": "predicted[counts].softmax(-1),"},
            "cross_entropy gets probabilities. It wants logits: it takes the softmax itself.",
        ),
        Mistake(
            "sum",
            {"wanted[counts])": 'wanted[counts], reduction="sum")'},
            "This is the sum over the tokens. The loss is their mean.",
        ),
        Mistake(
            "positive",
            {"return F": "return -F"},
            "The sign is wrong: cross entropy is minus the log probability already, so it is never negative.",
        ),
    ),
    accepted=(
        """
def next_token_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
""",
        """
def next_token_loss(logits, labels):
    log_p = logits.log_softmax(-1)[:, :-1]
    target = labels[:, 1:]
    mask = (target != -100).float()
    picked = log_p.gather(2, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * mask).sum() / mask.sum()
""",
        """
def next_token_loss(logits, labels):
    total, count = 0.0, 0
    for row, label in zip(logits, labels):
        for t in range(len(label) - 1):
            if label[t + 1] != -100:
                total = total + row[t].logsumexp(0) - row[t, label[t + 1]]
                count += 1
    return total / count
""",
    ),
    hints=(
        "Three steps: line up predictions and labels, find the labels that count, take the cross entropy of those.",
        "logits[:, :-1] predict labels[:, 1:].",
        "mask = wanted != -100, and both predicted[mask] and wanted[mask] go into F.cross_entropy.",
    ),
    remark="Hugging Face models shift inside, so they get unshifted labels. Shifting both outside and inside is "
    "common.",
)
