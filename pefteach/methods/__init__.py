"""Every technique, one file each; ``core/`` is what they share."""

from pefteach.methods.adalora import AdaLoRA
from pefteach.methods.core.adapter import Adapter, Method, attached
from pefteach.methods.core.attach import activate, attach, detach
from pefteach.methods.dora import DoRA
from pefteach.methods.houlsby import HoulsbyAdapters
from pefteach.methods.ia3 import IA3
from pefteach.methods.llama_adapter import LlamaAdapter
from pefteach.methods.lora import LoRA
from pefteach.methods.multitask_prompt import MultitaskPrompt
from pefteach.methods.p_tuning import PTuning
from pefteach.methods.parallel import ParallelAdapters
from pefteach.methods.pfeiffer import PfeifferAdapters
from pefteach.methods.prefix_tuning import PrefixTuning
from pefteach.methods.prompt_tuning import PromptTuning
from pefteach.methods.selective import BitFit, FullFineTuning, LastLayers, Norms

METHODS: tuple[type[Method], ...] = (
    FullFineTuning,
    LastLayers,
    Norms,
    BitFit,
    HoulsbyAdapters,
    PfeifferAdapters,
    ParallelAdapters,
    IA3,
    LoRA,
    DoRA,
    AdaLoRA,
    PromptTuning,
    PTuning,
    MultitaskPrompt,
    PrefixTuning,
    LlamaAdapter,
)

__all__ = [m.__name__ for m in METHODS] + ["METHODS", "Adapter", "Method", "activate", "attached", "attach", "detach"]
