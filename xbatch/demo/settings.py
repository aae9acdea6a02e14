"""What the demo model is trained with, and the fingerprint that ties a model to it."""

import hashlib
from dataclasses import asdict, dataclass

from xbatch.demo import QUESTIONS_PATH


@dataclass(frozen=True, slots=True)
class Settings:
    """The shape of the network and the course of its training."""

    seed: int = 7
    vocab_size: int = 1280  # entries, special tokens included
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 4
    num_heads: int = 4  # of 32 dimensions each
    num_kv_heads: int = 2
    context_tokens: int = 2048
    warm_up_steps: int = 20
    short_steps: int = 140  # bare questions only, where facts are learnt cheaply
    short_batch_tokens: int = 1536  # padding included, as below
    mixed_steps: int = 570  # every way of asking
    mixed_batch_tokens: int = 2304
    joined_share: float = 0.5  # of the mixed examples, those laid end to end
    matrix_learning_rate: float = 1e-2  # peaks; the matrices are the layers'
    learning_rate: float = 4e-3
    weight_decay: float = 0.05


SETTINGS = Settings()


def fingerprint(settings: Settings = SETTINGS) -> dict[str, object]:
    """The questions' digest and the settings, as recorded in a model's `training.json`."""
    digest = hashlib.sha256(QUESTIONS_PATH.read_bytes()).hexdigest()
    return {"questions_sha256": digest, "settings": asdict(settings)}
