"""The Triton kernels: in the interpreter, compiled, on a GPU; and when they are used."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from pefteach.quant import Linear4bit, quantise_4bit
from pefteach.quant.fast import fused
from quant.fast import kernel_checks

triton = pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def interpreted():
    """What each check says in Triton's interpreter, or None."""
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "quant.fast.kernel_checks"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", kernel_checks.CHECKS)
def test_is_right_in_the_interpreter(check, interpreted):
    assert interpreted[check] is None


@pytest.mark.gpu
@pytest.mark.parametrize("check", kernel_checks.CHECKS)
def test_is_right_on_a_gpu(check):
    if torch.cuda.get_device_capability(GPU) < (8, 0):
        pytest.skip("the kernels need a GPU of compute capability 8.0")
    assert fused.available(GPU)
    kernel_checks.CHECKS[check](GPU)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 16, 17])  # with 17 a kernel dequantises, and cuBLAS multiplies
@pytest.mark.parametrize("dtype", kernel_checks.DTYPES)
def test_a_layer_on_a_gpu_is_the_layer_on_a_cpu(rows, dtype):
    torch.manual_seed(0)
    layer = Linear4bit.from_linear(torch.nn.Linear(1000, 520))
    x, dy = torch.randn(rows, 1000).to(dtype), torch.randn(rows, 520).to(dtype)

    def run(device):
        layer.to(device).bias.grad = None
        at = x.to(device).requires_grad_()
        y = layer(at)
        y.backward(dy.to(device))
        return y.cpu(), at.grad.cpu(), layer.bias.grad.cpu()

    torch.testing.assert_close(run(GPU), run("cpu"), rtol=0.02, atol=1e-4 if dtype == torch.float32 else 0.02)


@pytest.mark.gpu
def test_a_gpu_takes_more_than_two_to_the_31_weights():
    if torch.cuda.get_device_properties(GPU).total_memory < 12e9:
        pytest.skip("needs 12 GB of GPU memory")
    n = 2**31 + 4098
    weight = quantise_4bit(torch.ones(64, device=GPU).bfloat16(), block_size=4096)
    weight = weight.map(lambda t: t[:1].expand(-(-n // (2 if t.dim() == 2 else 4096)), *t.shape[1:]).contiguous())
    weight = replace(weight, shape=torch.Size([n]))
    assert (weight.dequantise() == 1).all()


class Recorder:
    """Stands in for a kernel and records the arguments that it was started with."""

    def __getitem__(self, grid):
        def start(*arguments, **named):
            self.arguments, self.named = arguments, named

        return start


def compiled(name, capability, start):
    """The assembly (PTX) of a kernel as ``start`` would start it. No GPU is needed to compile for one."""
    from pefteach.quant.fast import kernels

    kernel, recorder = getattr(kernels, name), Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_kernels", lambda: SimpleNamespace(**{name: recorder}))
        start()
    values = dict(zip(kernel.arg_names, recorder.arguments)) | recorder.named
    options = {key: values.pop(key) for key in list(values) if key not in kernel.arg_names}
    is_one = lambda value: isinstance(value, int) and value == 1  # Triton makes a constant of it
    constants = {key: value for key, value in values.items() if key.isupper() or value is None or is_one(value)}
    types = {torch.uint8: "*u8", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    signature, aligned = {}, {}
    for i, key in enumerate(kernel.arg_names):
        value = values[key]
        is_tensor = isinstance(value, torch.Tensor)
        signature[key] = "constexpr" if key in constants else types[value.dtype] if is_tensor else "i32"
        if is_tensor or (signature[key] == "i32" and value % 16 == 0):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        kernel, signature, {(kernel.arg_names.index(key),): value for key, value in constants.items()}, aligned
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=options).asm["ptx"]


@pytest.fixture
def weight():
    return quantise_4bit(torch.randn(512, 1024), double_quantisation=True)


@pytest.mark.parametrize("capability, dtype", [(80, torch.float32), (80, torch.bfloat16), (90, torch.bfloat16)])
def test_compiles_without_a_fused_multiply_add(capability, dtype, weight, monkeypatch, tmp_path):
    """A fused multiply-add rounds once where PyTorch rounds twice, so its numbers would differ."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ptx = compiled("dequantise_tile", capability, lambda: fused.dequantise_weight(weight, dtype))
    assert "mul.rn.f32" in ptx and "add.rn.f32" in ptx and "fma" not in ptx
    assert "ld.global.v4" in ptx, "the codes are not read 16 bytes at a time"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("rows, capability, dtype", [
    (16, 80, torch.float32), (16, 80, torch.float16), (16, 80, torch.bfloat16), (1, 90, torch.bfloat16),
])  # fmt: skip
def test_the_product_compiles_to_matrix_units(rows, capability, backward, dtype, weight, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x = torch.randn(rows, weight.shape[0 if backward else 1]).to(dtype)
    ptx = compiled("product", capability, lambda: fused.matmul(x, weight, backward))
    if dtype == torch.float32:
        assert "tf32" not in ptx and "fma.rn.f32" in ptx
    else:
        kind = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
        assert f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32" in ptx


def test_compiles_for_the_smallest_tensors(monkeypatch, tmp_path):
    """Triton makes a constant of every argument that is 1 or None: one value, byte, block, row or output."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled("dequantise_tile", 80, lambda: fused.dequantise_weight(quantise_4bit(torch.ones(1)), torch.float32))
    weight = quantise_4bit(torch.randn(1, 2))
    for x, backward in ((torch.ones(1, 2), False), (torch.ones(1, 1), True)):
        compiled("product", 80, lambda x=x, backward=backward: fused.matmul(x, weight, backward))


def test_import_leaves_triton_alone():
    code = "import sys, pefteach.quant; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_cpu_has_no_kernels():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.available(torch.device("cpu"))


@pytest.mark.parametrize("capability, installed, warns", [((7, 5), True, 0), ((8, 0), False, 0), ((8, 0), True, 1)])
def test_falls_back_to_pytorch(capability, installed, warns, monkeypatch):
    """PyTorch takes over where the GPU is too old, Triton is missing, or Triton raises, which is then reported."""

    def broken(*_):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(2))  # there need be no such device
    monkeypatch.setattr(fused, "dequantise_weight", broken)
    if not installed:
        monkeypatch.setitem(sys.modules, "triton", None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert fused.available.__wrapped__(GPU) is False
    assert len(said) == warns
    assert all("go through PyTorch, since Triton does not work here: Failed to find C" in str(w.message) for w in said)


@pytest.mark.parametrize("rows, dtype, fan_in, block_size, worth", [
    (1, torch.bfloat16, 64, 64, True), (16, torch.float16, 66, 64, True), (1, torch.float16, 64, 16, True),
    (17, torch.bfloat16, 64, 64, False),  # several tiles
    (0, torch.bfloat16, 64, 64, False),
    (1, torch.float32, 64, 64, False),  # no matrix units
    (1, torch.bfloat16, 65, 64, False),  # rows that start within a byte
    (1, torch.bfloat16, 64, 8, False),  # blocks shorter than a run
])  # fmt: skip
def test_when_the_fused_product_is_worth_it(rows, dtype, fan_in, block_size, worth, monkeypatch):
    x, weight = torch.randn(rows, 1, fan_in).to(dtype), quantise_4bit(torch.randn(40, fan_in), block_size=block_size)
    assert not fused.worth_fusing(x, weight)
    monkeypatch.setattr(fused, "available", lambda device: True)
    assert fused.worth_fusing(x, weight) is worth
    assert not fused.worth_fusing(x.requires_grad_(), weight)
    with torch.no_grad():
        assert fused.worth_fusing(x, weight) is worth


@pytest.mark.parametrize("fan_in, block_size", [(65, 64), (64, 8)])
def test_what_the_product_cannot_do_is_refused(fan_in, block_size):
    with pytest.raises(ValueError, match="takes an even number of inputs in blocks of at least 16"):
        fused.matmul(torch.randn(2, fan_in), quantise_4bit(torch.randn(40, fan_in), block_size=block_size))


@pytest.mark.parametrize("rows, way", [(16, "product"), (17, "dequantise")])
def test_a_layer_takes_the_kernels_where_they_pay(rows, way, monkeypatch):
    layer, went = Linear4bit.from_linear(torch.nn.Linear(64, 48).bfloat16()), []

    def dequantise(weight, dtype):
        went.append("dequantise")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused, "available", lambda device: False)
            return weight.dequantise(dtype)

    def matmul(x, weight, backward=False):
        went.append("product")
        matrix = right.to(x.dtype)
        return x @ matrix if backward else F.linear(x, matrix)

    x, dy, right = torch.randn(rows, 64).bfloat16(), torch.randn(rows, 48).bfloat16(), layer.weight
    results = []
    for _ in range(2):  # without, then with
        at = x.clone().requires_grad_()
        y = layer(at)
        y.backward(dy)
        results.append((y, at.grad))
        monkeypatch.setattr(fused, "available", lambda device: True)
        monkeypatch.setattr(fused, "dequantise_weight", dequantise)
        monkeypatch.setattr(fused, "matmul", matmul)
    assert went == [way, way]
    for without, with_ in zip(*results):
        assert torch.equal(without, with_)
