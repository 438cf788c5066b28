"""Bytes by phase when training with AdamW: weights, gradients, two moments."""

from collections.abc import Iterator

from pefteach.exercises.exercise import Draw, Exercise, Inputs, Mistake


def inputs(draw: Draw) -> Iterator[Inputs]:
    for frozen_bits in (16, 4):
        yield {
            "frozen": 1000 * draw.integer(500, 900),
            "trainable": 1000 * draw.integer(10, 90),
            "frozen_bits": frozen_bits,
        }


EXERCISE = Exercise(
    name="training_bytes",
    title="Memory by phase",
    minutes=8,
    level="core",
    statement="""
AdamW keeps, for every parameter that *trains*, a gradient and two running averages (its moments). Trainable parameters,
gradients and moments are float32, 4 bytes a number. Frozen parameters are stored with `frozen_bits` bits each and have
neither gradient nor moments.

How many bytes are in use once the model is **loaded**, after the **backward** pass (gradients have come), and after the
first optimiser **step** (moments have come; the gradients are still there)? Leave activations out.
""",
    code='''
def training_bytes(frozen, trainable, frozen_bits):
    """Bytes of weights, gradients and optimiser state in three phases.

    frozen, trainable: numbers of parameters; frozen_bits: bits per frozen parameter (32, 16, 8 or 4).
    Returns {"load": bytes, "backward": bytes, "step": bytes}.
    """
    ### BEGIN SOLUTION
    weights = frozen * frozen_bits / 8 + trainable * 4
    gradients = trainable * 4
    moments = trainable * 8
    return {"load": weights, "backward": weights + gradients, "step": weights + gradients + moments}
    ### END SOLUTION
''',
    inputs=inputs,
    mistakes=(
        Mistake(
            "gradients for all",
            {"gradients = trainable * 4": "gradients = (frozen + trainable) * 4"},
            "The frozen parameters get gradients too. They need none: that is the first saving.",
        ),
        Mistake(
            "moments for all",
            {"moments = trainable * 8": "moments = (frozen + trainable) * 8"},
            "The frozen parameters get moments too. The optimiser only knows what trains: that is the larger saving.",
        ),
        Mistake(
            "16 bytes for all",
            {
                "gradients = trainable * 4": "gradients = (frozen + trainable) * 4",
                "moments = trainable * 8": "moments = (frozen + trainable) * 8",
            },
            "Every parameter gets a gradient and two moments, as in full fine-tuning. Only those that train need them.",
        ),
        Mistake(
            "one of three",
            {"trainable * 8": "trainable * 4"},
            "In the last phase 4 bytes per trained parameter are missing. AdamW keeps two averages, of the gradient "
            "and of its "
            "square, and the gradients themselves are still there.",
        ),
        Mistake(
            "bits for bytes",
            {"frozen_bits / 8": "frozen_bits"},
            "Bits are taken for bytes: a byte has 8 bits.",
        ),
        Mistake(
            "all in few bits",
            {"frozen * frozen_bits / 8 + trainable * 4": "(frozen + trainable) * frozen_bits / 8"},
            "What trains is stored in frozen_bits too. It stays in float32: a training step would be lost in the "
            "rounding.",
        ),
        Mistake(
            "moments too early",
            {'"backward": weights + gradients,': '"backward": weights + gradients + moments,'},
            "The moments are counted in the backward pass. The optimiser makes them at its first step.",
        ),
        Mistake(
            "trainable weights forgotten",
            {" + trainable * 4\n    gradients": "\n    gradients"},
            "Only the frozen weights are loaded. The weights that train take room as well.",
        ),
    ),
    accepted=(
        """
def training_bytes(frozen, trainable, frozen_bits):
    load = frozen_bits * frozen // 8 + 4 * trainable
    return {"load": load, "backward": load + 4 * trainable, "step": load + 12 * trainable}
""",
        """
def training_bytes(frozen, trainable, frozen_bits):
    base = frozen * (frozen_bits / 8)
    phases = [("load", 4), ("backward", 8), ("step", 16)]
    return {phase: base + each * trainable for phase, each in phases}
""",
        """
def training_bytes(frozen, trainable, frozen_bits):
    used = {"load": frozen * frozen_bits / 8.0}
    used["load"] += sum([trainable] * 4)
    used["backward"] = used["load"] + trainable * 4
    used["step"] = used["backward"] + 2 * trainable * 4
    return used
""",
    ),
    hints=(
        "Three lines: the bytes of the weights, of the gradients, of the moments. Then add them up phase by phase.",
        "Weights: frozen * frozen_bits / 8 for the frozen ones, 4 bytes each for those that train.",
        "Gradients: 4 bytes for each that trains. Moments: twice that.",
    ),
    remark="Full fine-tuning in float32 is 16 bytes a parameter. Freezing removes 12 of them; fewer bits, most of "
    "the rest.",
)
