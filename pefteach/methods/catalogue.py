"""The one list of techniques: the settings for tests, the reference library and the settings for timing of each.

All checks that cover every technique read it: the tests' contract, parity, files, rehearsal and benchmark.
"""

import torch

from pefteach.methods.adalora import AdaLoRA
from pefteach.methods.core.adapter import Method
from pefteach.methods.core.technique import DECODERS, ONE_STACK, Technique
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
from pefteach.methods.vera import VeRA

TECHNIQUES: dict[str, Technique] = {
    "full fine-tuning": Technique(FullFineTuning(), timed={"full fine-tuning": FullFineTuning()}, near_floor=True),
    "last block": Technique(LastLayers(1), families=ONE_STACK, timed={"last 2 blocks": LastLayers(2)}, near_floor=True),
    "norms": Technique(Norms(), timed={"norms": Norms()}, near_floor=True),
    "BitFit": Technique(BitFit(), timed={"BitFit": BitFit()}, near_floor=True),
    "Houlsby": Technique(
        HoulsbyAdapters(size=7, scale=1.5), "adapters", ONE_STACK, timed={"Houlsby": HoulsbyAdapters(32)}
    ),
    "Houlsby, learned scale": Technique(
        HoulsbyAdapters(9, activation="gelu_new", scale="learned"), "adapters", ONE_STACK
    ),
    "Pfeiffer": Technique(PfeifferAdapters(9), "adapters", ONE_STACK, timed={"Pfeiffer": PfeifferAdapters(32)}),
    "parallel adapters": Technique(
        ParallelAdapters(size=7), "adapters", ONE_STACK, timed={"parallel adapters": ParallelAdapters(32)}
    ),
    "parallel adapters, learned scale": Technique(ParallelAdapters(9, scale="learned"), "adapters", ONE_STACK),
    "IA3": Technique(IA3(), "peft", timed={"IA3": IA3()}),
    "LoRA": Technique(
        LoRA(3, 7.0),
        "peft",
        timed={"LoRA q, v": LoRA(8, 16), "LoRA all linear": LoRA(8, 16, "all-linear")},
        near_floor=True,
    ),
    "rsLoRA": Technique(LoRA(3, 7.0, rslora=True), "peft"),
    "DoRA": Technique(DoRA(3, 7.0), "peft", timed={"DoRA": DoRA(8, 16)}),
    "VeRA": Technique(VeRA(5, save_projection=False), "peft", timed={"VeRA": VeRA()}),
    "AdaLoRA": Technique(AdaLoRA(5, 2, 7.0, interval=2), "peft", timed={"AdaLoRA": AdaLoRA(12, 8, 16)}),
    "prompt tuning": Technique(PromptTuning(5), "peft", ONE_STACK, timed={"prompt tuning": PromptTuning(20)}),
    "P-tuning": Technique(PTuning(5, encoder_hidden_size=24), "peft", ONE_STACK, timed={"P-tuning": PTuning(20)}),
    "P-tuning, LSTM": Technique(PTuning(5, "lstm", 24), "peft", ONE_STACK),
    "multitask prompt": Technique(
        MultitaskPrompt(5, tasks=4, rank=2),
        "peft",
        ONE_STACK,
        inputs=lambda rows: {"task_ids": (torch.arange(rows) + 3) % 4},
        timed={"multitask prompt": MultitaskPrompt(20, tasks=4)},
    ),
    "prefix tuning": Technique(PrefixTuning(5), "peft", ONE_STACK, timed={"prefix tuning": PrefixTuning(20)}),
    "prefix tuning, MLP": Technique(
        PrefixTuning(5, encoder_hidden_size=24),
        "peft",
        ONE_STACK,
        timed={"prefix tuning, MLP": PrefixTuning(20, encoder_hidden_size=512)},
    ),
    # peft refuses Qwen2, and no library has the official gate: its test computes the paper's equation instead
    "LLaMA-Adapter": Technique(
        LlamaAdapter(5, adapter_layers=1),
        "peft",
        DECODERS,
        unequal=("ours", "qwen2"),
        timed={"LLaMA-Adapter": LlamaAdapter(10, adapter_layers=4)},
    ),
    "LLaMA-Adapter, gate per head": Technique(LlamaAdapter(5, adapter_layers=1, gate="head"), families=DECODERS),
}

METHODS: tuple[type[Method], ...] = tuple(dict.fromkeys(type(technique.method) for technique in TECHNIQUES.values()))
