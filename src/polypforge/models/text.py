"""Prompts to embeddings: CLIP text encoders as Stable Diffusion (one) and SDXL (two) use them, or a small one learned here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()  # a bar for each small file is noise beside our own
UNKNOWN = "[unk]"
MAX_WORDS = 16
MAX_KNOWN = 2048  # prompts whose embeddings are kept


class TextCondition(NamedTuple):
    """hidden: (B, L, D), what the U-Net attends to. pooled: (B, P) of SDXL, else None."""

    hidden: Tensor
    pooled: Tensor | None


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, for encoders that are learned from scratch on a bank of prompts; other words become `[unk]`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["[pad]", "[start]", "[end]", UNKNOWN, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[start] $A [end]", special_tokens=[("[start]", 1), ("[end]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_WORDS,
        pad_token="[pad]",
        bos_token="[start]",
        eos_token="[end]",
        unk_token=UNKNOWN,
    )


def small_text_encoder(tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> CLIPTextModel:
    """An untrained CLIP text encoder for that vocabulary; settings: hidden_size, num_hidden_layers, num_attention_heads."""
    width = settings["hidden_size"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=settings["num_hidden_layers"],
            num_attention_heads=settings["num_attention_heads"],
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class TextEncoders(nn.Module):
    """One or two encoders with their tokenizers. Frozen ones embed each prompt once."""

    def __init__(self, tokenizers: Sequence[PreTrainedTokenizerBase], encoders: Sequence[nn.Module], frozen: bool) -> None:
        super().__init__()
        self.tokenizers = list(tokenizers)
        self.encoders = nn.ModuleList(encoders)
        self.frozen = frozen
        if frozen:
            self.encoders.requires_grad_(False)
        self._known: dict[tuple[int, ...], TextCondition] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(E, L) of the token ids."""
        return len(self.encoders), self.encoders[0].config.max_position_embeddings  # type: ignore[return-value, union-attr]

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, E, L) int64: the token ids for each encoder; longer prompts are cut at L."""
        found = []
        for tokenizer in self.tokenizers:
            length = tokenizer.model_max_length
            found.append(tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids)
        return torch.stack(found, 1)

    def forward(self, ids: Tensor) -> TextCondition:
        if not self.frozen or ids.is_meta:
            return self._encode(ids)
        rows = [tuple(row) for row in ids.flatten(1).tolist()]
        if len(self._known) + len(rows) > MAX_KNOWN:
            self._known.clear()
        for row, tokens in zip(rows, ids, strict=True):
            if row not in self._known or self._known[row].hidden.device != ids.device:
                with torch.no_grad():
                    self._known[row] = self._encode(tokens[None])
        parts = [self._known[row] for row in rows]
        pooled = [p.pooled for p in parts if p.pooled is not None]
        return TextCondition(torch.cat([p.hidden for p in parts]), torch.cat(pooled) if pooled else None)

    def _encode(self, ids: Tensor) -> TextCondition:
        if len(self.encoders) == 1:
            return TextCondition(self.encoders[0](ids[:, 0])[0].float(), None)
        # SDXL: the layer before the last of both; the projection of the second one is the pooled embedding.
        outs = [encoder(ids[:, k], output_hidden_states=True) for k, encoder in enumerate(self.encoders)]
        return TextCondition(torch.cat([o.hidden_states[-2].float() for o in outs], -1), outs[-1][0].float())

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the first encoder can't know; CLIP's own vocabulary covers every word."""
        vocabulary = self.tokenizers[0].get_vocab()
        if UNKNOWN not in vocabulary:
            return []
        return [w for w in re.findall(r"\w+|[^\w\s]+", prompt.lower()) if w not in vocabulary]
