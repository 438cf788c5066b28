"""softmax(q kᵀ / √d) v with a causal mask (Vaswani et al. 2017, equation 1)."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for _ in range(2):
        batch, heads, tokens, d = draw.sizes(4)
        yield {name: draw.normal(batch, heads, tokens, d) for name in ("q", "k", "v")}


EXERCISE = Exercise(
    name="attention",
    title="Scaled dot-product attention, without looking ahead",
    minutes=12,
    level="core",
    statement="""
$$\\text{attention}(q, k, v) = \\text{softmax}\\left(\\frac{q k^\\top}{\\sqrt{d}} + \\text{mask}\\right) v$$

The mask keeps position $t$ from seeing positions after $t$; it may see itself.
""",
    code='''
def attention(q, k, v):
    """Causal attention.

    q, k, v: (batch, heads, tokens, d).
    Returns (batch, heads, tokens, d).
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (batch, heads, tokens, tokens)
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(ahead, float("-inf")).softmax(-1)
    return weights @ v
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "no scale",
            {" / math.sqrt(q.shape[-1])": ""},
            "The scores are not divided by √d. With a large d they grow, and the softmax puts nearly all weight on one "
            "token.",
        ),
        Mistake(
            "divided by d",
            {"math.sqrt(q.shape[-1])": "q.shape[-1]"},
            "The scores are divided by d. It is the square root of d: that is how much a sum of d products spreads.",
        ),
        Mistake(
            "multiplied",
            {"/ math.sqrt(q.shape[-1])": "* math.sqrt(q.shape[-1])"},
            "The scores are multiplied by √d where they should be divided by it.",
        ),
        Mistake(
            "scaled too late",
            {" / math.sqrt(q.shape[-1])": "", "weights @ v": "weights @ v / math.sqrt(q.shape[-1])"},
            "The division by √d comes after the softmax. It belongs before it: it is the scores that get too large.",
        ),
        Mistake(
            "no mask",
            {'.masked_fill(ahead, float("-inf"))': ""},
            "Every token sees all others, those ahead of it too. A decoder that can look up the next token learns "
            "nothing.",
        ),
        Mistake(
            "itself hidden",
            {".triu(1)": ".triu(0)"},
            "The mask hides a token from itself as well. The first token then has nothing to look at, and a softmax "
            "over "
            "nothing but -inf is NaN.",
        ),
        Mistake(
            "past hidden",
            {".triu(1)": ".tril(-1)"},
            "The mask is the wrong way round: each token sees what lies ahead and not what came before.",
        ),
        Mistake(
            "masked with zero",
            {'float("-inf")': "0.0"},
            "The hidden scores are set to 0, and exp(0) = 1 still counts. Set them to -inf, whose exponential is 0.",
        ),
        Mistake(
            "masked too late",
            {'.masked_fill(ahead, float("-inf"))': "", "weights @ v": "weights.masked_fill(ahead, 0.0) @ v"},
            "The mask comes after the softmax, so the weights of a row no longer add up to one. Mask the scores.",
        ),
        Mistake(
            "wrong axis",
            {".softmax(-1)": ".softmax(-2)"},
            "The softmax runs over the queries. Each query spreads its weight over the keys: the last axis.",
        ),
        Mistake(
            "k.T",
            {"k.transpose(-2, -1)": "k.T"},
            "k.T turns round all axes, batch and heads too. Exchange the last two only: k.transpose(-2, -1) or k.mT.",
        ),
    ),
    accepted=(
        """
def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)
""",
        """
def attention(q, k, v):
    T, d = q.shape[2:]
    mask = torch.full((T, T), -torch.inf).triu(diagonal=1)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * d**-0.5 + mask
    return torch.einsum("bhqk,bhkd->bhqd", F.softmax(scores, dim=-1), v)
""",
        """
def attention(q, k, v):
    rows = []
    for t in range(q.shape[2]):
        scores = (k[:, :, : t + 1] @ q[:, :, t, :, None]).squeeze(-1) / q.shape[-1] ** 0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        rows.append((weights[..., None] * v[:, :, : t + 1]).sum(2))
    return torch.stack(rows, 2)
""",
    ),
    hints=(
        "Four steps: scores, mask, softmax, mix. Print the shape after each; the scores are (batch, heads, tokens, "
        "tokens).",
        "k.transpose(-2, -1) exchanges the last two axes. Divide the scores by the root of q.shape[-1].",
        "torch.ones(T, T).triu(1).bool() is True where a key lies ahead of a query. masked_fill it with -inf.",
    ),
    remark="Row t of the weights has t + 1 numbers above zero, and they add up to one.",
)
