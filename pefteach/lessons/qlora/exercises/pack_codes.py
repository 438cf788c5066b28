"""Two codes of four bits in one byte, the first in the high half: the layout of bitsandbytes."""

from collections.abc import Iterator

import torch

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for odd in (0, 1):
        count = 2 * draw.integer(3, 6) + odd
        yield {"codes": torch.tensor([draw.integer(1, 15) for _ in range(count)], dtype=torch.uint8)}


EXERCISE = Exercise(
    name="pack_codes",
    title="Two codes in a byte",
    minutes=8,
    level="warm-up",
    statement="""
The smallest thing that a computer stores is a byte, 8 bits. A code of 4 bits (0 to 15) takes half of one, so two
neighbours share a byte: the first in the high half, the second in the low half. The codes 3 and 10 make the byte
`0x3A`, which is $3 \\cdot 16 + 10 = 58$.

With an odd number of codes, the low half of the last byte is 0.
""",
    code='''
def pack_codes(codes):
    """Put two codes into each byte, the first of a pair in the high half.

    codes: (n,) uint8, each from 0 to 15.
    Returns bytes, (n / 2 rounded up,) uint8.
    """
    ### BEGIN SOLUTION
    codes = F.pad(codes, (0, len(codes) % 2))  # an even number of codes
    high, low = codes[::2], codes[1::2]
    return high * 16 + low
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "low half first",
            {"high * 16 + low": "low * 16 + high"},
            "The halves are exchanged: the first code of a pair belongs in the high half, so it is the one times 16.",
        ),
        Mistake(
            "nothing shifted",
            {"high * 16 + low": "high + low"},
            "The two codes are added as they are, so they lie on top of each other and cannot be told apart. Shift "
            "the first one up by 4 bits first (times 16, or << 4).",
        ),
        Mistake(
            "shifted by two",
            {"high * 16": "high * 4"},
            "The first code is shifted by 2 bits, and the codes have 4: the halves overlap.",
        ),
        Mistake(
            "fifteen",
            {"high * 16": "high * 15"},
            "The first code is multiplied by 15, the largest code. Half a byte has 16 values, 0 to 15: multiply by 16.",
        ),
        Mistake(
            "front and back",
            {"codes[::2], codes[1::2]": "codes[: len(codes) // 2], codes[len(codes) // 2 :]"},
            "Codes from the front half are paired with codes from the back half. A byte holds two neighbours: "
            "codes[0] and codes[1], then codes[2] and codes[3].",
        ),
        Mistake(
            "last one lost",
            {
                "codes = F.pad(codes, (0, len(codes) % 2))  # an even number of codes": "codes = codes[: len(codes) "
                "// 2 * 2]"
            },
            "With an odd number of codes the last one is lost. It gets a byte of its own, with 0 in the low half.",
        ),
        Mistake(
            "padded in front",
            {"(0, len(codes) % 2)": "(len(codes) % 2, 0)"},
            "With an odd number of codes the zero is put in front, which moves every code to another half. Put it at "
            "the end.",
        ),
        Mistake(
            "one code per byte",
            {"return high * 16 + low": "return codes"},
            "Every code still has a byte of its own: half of every byte is empty. Put two into each.",
        ),
    ),
    accepted=(
        """
def pack_codes(codes):
    packed = codes[::2] << 4
    packed[: len(codes) // 2] |= codes[1::2]
    return packed
""",
        """
def pack_codes(codes):
    values = codes.tolist() + [0]
    return torch.tensor([16 * values[i] + values[i + 1] for i in range(0, len(codes), 2)], dtype=torch.uint8)
""",
        """
def pack_codes(codes):
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    pairs = codes.view(-1, 2).int()
    return (pairs @ torch.tensor([16, 1], dtype=torch.int32)).to(torch.uint8)
""",
    ),
    hints=(
        "Which codes go into the high halves? Every second one, from the first: codes[::2].",
        "To move a code into the high half, multiply it by 16 (or shift it: code << 4). Then add the other one.",
        "For an odd number of codes, append one 0 first: F.pad(codes, (0, 1)).",
    ),
    remark="To unpack, the high half is byte >> 4 and the low half byte & 15. Which half comes first is a convention; "
    "bitsandbytes' files need this one.",
)
