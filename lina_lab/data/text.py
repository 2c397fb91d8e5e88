"""Captions to states of a frozen text encoder: any encoder of transformers, or word vectors that need no download.

Shapes: B captions, L positions, D channels of a state.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor

from lina_lab.data.pretrained import hub_options, weights_sha256
from lina_lab.util.compat.transformers import has_text_encoder
from lina_lab.util.errors import first_line
from lina_lab.util.seeds import derive

WORDS = "words"
"""Name of the encoder by word vectors."""
NOT_INSTALLED = "a text encoder needs transformers: pip install 'lina_lab[text]'"
SCALE = 1000.0
"""Scale of the position code: its longest wave is 2 pi times as many words long."""
STATES_KEPT = 10_000
"""States, each of a word at a position, that `words` caches."""


class WordEncoder:
    """A fixed random vector for each word, plus its position in the caption as sines and cosines.

    It needs neither weights nor a vocabulary, and knows nothing of meanings: it is for captions of few words.
    """

    name = WORDS

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._state = lru_cache(maxsize=STATES_KEPT)(self._make_state)

    def sha256(self) -> str:
        """The hash that tells an encoder from another of the same name. Empty: the vectors follow from the words."""
        return ""

    def encode(self, captions: Sequence[str], length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Encode captions.

        Args:
            captions: B of them. A longer one is cut off; an empty one may have no state at all.
            length: positions L.
            device: to compute on.

        Returns:
            States float32 [B, L, D], zero where there is none, and where there is one, bool [B, L].
        """
        states, present = torch.zeros(len(captions), length, self.dim), torch.zeros(len(captions), length).bool()
        for row, caption in enumerate(captions):
            for position, word in enumerate(re.findall(r"[^\W_]+", caption.lower())[:length]):
                states[row, position], present[row, position] = self._state(word, position), True
        return states.to(device), present.to(device)

    def _make_state(self, word: str, position: int) -> Tensor:
        vector = torch.randn(self.dim, generator=Generator().manual_seed(derive("word", word)))
        waves = torch.arange((self.dim + 1) // 2) * (-math.log(SCALE) / ((self.dim + 1) // 2))
        angles = position * waves.exp()
        return vector + torch.cat([angles.sin(), angles.cos()])[: self.dim]


class PretrainedEncoder:
    """The last layer's states of a frozen text encoder of transformers, in float32.

    For a model of encoder and decoder (T5) it is the encoder, and for one of images and texts (CLIP) the text encoder.
    """

    def __init__(self, network: Any, tokenizer: Any, name: str) -> None:
        self.network, self.tokenizer, self.name = network, tokenizer, name
        self.dim = int(network.config.hidden_size)
        self.positions = _positions(network)
        """Largest number of tokens that it takes; None: any number."""

    def sha256(self) -> str:
        return weights_sha256(self.network)

    @torch.no_grad()
    def encode(self, captions: Sequence[str], length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Encode captions, as `WordEncoder.encode`.

        Raises:
            ValueError: the encoder does not take so many positions.
        """
        if self.positions is not None and length > self.positions:
            raise ValueError(f"the text encoder {self.name} takes {self.positions} tokens, and {length} are asked for")
        # All batches have one shape: a caption's states must not depend on the others of its batch.
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        present = tokens["attention_mask"].bool()
        inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        states = self.network.to(device)(**inputs).last_hidden_state
        return states.masked_fill(~present.unsqueeze(-1), 0.0), present


TextEncoder = WordEncoder | PretrainedEncoder
"""Turns captions into states; both kinds have a name, `dim` channels of a state, a hash, and `encode`."""


def load_text_encoder(name: str, dim: int | None = None) -> TextEncoder:
    """Load a text encoder. Its weights must be safetensors, and code that comes with them is not executed.

    Args:
        name: `words`, or folder or hub name of a model of transformers, with its tokenizer.
        dim: channels of the states; None: as many as the encoder has, which `words` does not say.

    Raises:
        ValueError: it is not there, is not whole, has other channels, or transformers is not installed.
    """
    if name == WORDS:
        if dim is None:
            raise ValueError("the text encoder words has as many channels as one asks for: say how many")
        return WordEncoder(dim)
    encoder = _pretrained(name)
    if dim is not None and encoder.dim != dim:
        raise ValueError(f"the text encoder {name} has states of {encoder.dim} channels, and {dim} are asked for")
    return encoder


def _pretrained(name: str) -> PretrainedEncoder:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(NOT_INSTALLED) from error
    options = hub_options(name, f"the text encoder {name}")
    try:
        return _load(transformers, name, options)
    except Exception as error:
        # A damaged folder raises a dozen kinds of errors, some of them from libraries beneath transformers.
        raise ValueError(f"{name} is no text encoder that can be loaded: {first_line(error)}") from error


def _load(transformers: Any, name: str, options: dict[str, bool]) -> PretrainedEncoder:
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(name, **options)
    config = getattr(config, "text_config", None) or config
    known = has_text_encoder(config)
    pair = bool(getattr(config, "is_encoder_decoder", False))
    if known:
        config.is_encoder_decoder = False
    network, report = (transformers.AutoModelForTextEncoding if known else transformers.AutoModel).from_pretrained(
        name, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    if any(key.startswith("pooler.") for key in report["missing_keys"]):
        # It pools a text to one vector, which is not used here; published weights often lack it.
        network.pooler = None
    lacking = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if lacking or report["mismatched_keys"]:
        # transformers would initialize them at random, differently each time.
        raise ValueError(f"its file lacks weights of {type(network).__name__}, such as {[*lacking, '?'][0]}")
    if pair and not known:
        network = network.get_encoder()
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("its tokenizer has neither a token for padding nor one for the end")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return PretrainedEncoder(network.eval().requires_grad_(False), tokenizer, name)


def _positions(network: Any) -> int | None:
    """The number of learned positions; RoBERTa's start after the padding's index."""
    table = getattr(getattr(network, "embeddings", None), "position_embeddings", None)
    most = getattr(network.config, "max_position_embeddings", None)
    if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
        most = table.num_embeddings - table.padding_idx - 1
    return None if most is None else int(most)
