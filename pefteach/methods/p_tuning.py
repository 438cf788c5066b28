"""P-tuning: a soft prompt that a small network computes during training; only the prompt is kept.

Liu et al. 2021, "GPT Understands, Too", section 3.2, with the prompt in front of the text as in peft:

    P = MLP([LSTM forwards(H) ; LSTM backwards(H)]),    H: (n, D) -> (n, 2h) -> P: (n, D)

or P = MLP(H), which is peft's default. H and the network are trained together. Every vector then depends on
shared weights (and, with the LSTM, on its neighbours), which is meant to make the search easier. Once trained, P is a
constant: a file holds P alone, and what is loaded from one is plain prompt tuning. To go on training with the
network, use ``fit``'s checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pefteach.methods.core.adapter import check_dropout
from pefteach.methods.core.soft_prompt import PromptAdapter, PromptPart, SoftPrompt
from pefteach.model.modes import eval_mode


class PTuningPart(PromptPart):
    """H and the network that turns it into P. After ``collapse`` only P is left."""

    def __init__(self, model: Any, method: PTuning, D: int):
        super().__init__(model, torch.randn(method.num_virtual_tokens, D))
        h, lstm = method.encoder_hidden_size or D, method.encoder == "lstm"
        if lstm:
            self.lstm_head = nn.LSTM(D, h, method.encoder_num_layers, dropout=method.dropout, bidirectional=True)
            layers = [nn.Linear(2 * h, 2 * h), nn.ReLU(), nn.Linear(2 * h, D)]
        else:
            layers = [nn.Linear(D, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, D)]
        self.mlp_head = nn.Sequential(*layers)

    def vectors(self) -> Tensor:  # (n, D): the LSTM runs along the n vectors, and there is no batch
        x = self.embedding.weight
        if "lstm_head" in self._modules:
            x = self.lstm_head(x)[0]  # (n, 2h)
        return self.mlp_head(x) if "mlp_head" in self._modules else x


@dataclass(frozen=True)
class PTuning(SoftPrompt):
    """Settings of P-tuning.

    Args:
        num_virtual_tokens: n, how many vectors.
        encoder: "mlp" or "lstm".
        encoder_hidden_size: h, the width of the network; D if None.
        encoder_num_layers: how many layers the LSTM has.
        dropout: between the layers of the LSTM, while training.

    Raises:
        ValueError: when attached with settings out of range, or to a model without a place for a prompt.
    """

    encoder: str = "mlp"
    encoder_hidden_size: int | None = None
    encoder_num_layers: int = 2
    dropout: float = 0.0

    formula: ClassVar[str] = "n D + the network"

    def trained_parameters(self, model: Any) -> int:
        D = model.get_input_embeddings().weight.shape[1]
        n, h = self.num_virtual_tokens, self.encoder_hidden_size or D
        if self.encoder == "mlp":
            return n * D + (D * h + h) + (h * h + h) + (h * D + D)
        # Each direction of a layer has four gates, each with a weight for the input, one for the state, and two biases.
        first, later = 2 * 4 * (D * h + h * h + 2 * h), 2 * 4 * (2 * h * h + h * h + 2 * h)
        return n * D + first + (self.encoder_num_layers - 1) * later + (2 * h * 2 * h + 2 * h) + (2 * h * D + D)

    def build(self, model: Any, name: str) -> PTuningAdapter:
        if self.encoder not in ("mlp", "lstm"):
            raise ValueError(f"encoder must be 'mlp' or 'lstm', not {self.encoder!r}")
        layers, h = self.encoder_num_layers, self.encoder_hidden_size
        if layers < 1 or (h is not None and h < 1):
            raise ValueError(f"encoder_num_layers and encoder_hidden_size must be at least 1, not {layers} and {h}")
        check_dropout(self.dropout)
        D = self.vocabulary(model).shape[1]
        return PTuningAdapter(self, model, name, {"": PTuningPart(model, self, D)})

    # The settings in peft's files.
    peft_type: ClassVar[str] = "P_TUNING"

    def to_peft(self) -> dict:
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": self.num_virtual_tokens,
            "encoder_reparameterization_type": self.encoder.upper(),
            "encoder_hidden_size": self.encoder_hidden_size,
            "encoder_num_layers": self.encoder_num_layers,
            "encoder_dropout": self.dropout,
        }

    @classmethod
    def from_peft(cls, config: dict) -> PTuning:
        return cls(
            num_virtual_tokens=config["num_virtual_tokens"],
            encoder=config.get("encoder_reparameterization_type", "MLP").lower(),
            encoder_hidden_size=config.get("encoder_hidden_size"),
            encoder_num_layers=config.get("encoder_num_layers", 2),
            dropout=config.get("encoder_dropout", 0.0),
        )


class PTuningAdapter(PromptAdapter):
    """Trains H and the network; stores P."""

    @torch.no_grad()  # as in generation: with gradients an LSTM rounds differently
    def file_tensors(self) -> Mapping[str, Tensor]:
        with eval_mode(self.part):  # without dropout
            return {"prompt_embeddings": self.part.vectors()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_tensors(tensors)  # refuses what does not fit
        self._keep(tensors["prompt_embeddings"])

    @torch.no_grad()
    def collapse(self) -> None:
        """Keep P and drop the network; training then continues with plain vectors."""
        self._keep(self.file_tensors()["prompt_embeddings"])

    def _keep(self, vectors: Tensor) -> None:
        self.part.embedding.weight.copy_(vectors)
        for head in ("lstm_head", "mlp_head"):
            self.part._modules.pop(head, None)
