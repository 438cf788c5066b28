"""A QLoRA run sharded by accelerate's FSDP2, on processors. Started by torchrun; see test_run.py.

accelerate offers FSDP on accelerators only. What it does with a model is the same on processors, so this script
tells it that it is sharding, and changes nothing else. Arguments: the settings as JSON, and the folder.
"""

import json
import sys

import accelerate
import torch
from torch.distributed.tensor import DTensor

from pefteach.qlora.run import run
from pefteach.qlora.settings import Settings
from pefteach.quant import Linear4bit
from pefteach.training.processes import Accelerated


class Sharding(accelerate.Accelerator):
    def __init__(self, cpu, kwargs_handlers):
        plugin = accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
        )
        super().__init__(cpu=cpu)
        self.state.distributed_type, self.state.fsdp_plugin = accelerate.DistributedType.FSDP, plugin


def check_sharded(self, model, optimizer):
    prepared = prepare(self, model, optimizer)
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    whole, here = (sum(f(m.packed) for m in layers) for f in (torch.numel, lambda p: p.to_local().numel()))
    assert layers and all(isinstance(m.packed, DTensor) for m in layers) and 2 * here == whole
    assert all(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])
    return prepared


prepare, Accelerated.prepare = Accelerated.prepare, check_sharded
accelerate.Accelerator = Sharding
run(Settings(**json.loads(sys.argv[1])), sys.argv[2], samples=1, checkpoint_seconds=0.0, cpu=True)
