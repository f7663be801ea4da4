"""Every shipped configuration is parsed and built."""

import pytest
import torch

from polypforge.core.config import from_dict, read_yaml
from polypforge.training.config import TrainingConfig
from polypforge.workflows.train import PhantomMix, build, shipped_config, trainable_names


@pytest.mark.parametrize("name", trainable_names())
def test_shipped_configs_build(name):
    values = read_yaml(shipped_config(name))
    with torch.device("meta"):
        model = build(name, values["model"], name)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    assert from_dict(TrainingConfig, values["training"]).batch_size > 0
    assert from_dict(PhantomMix, values["phantom"]).frames >= 0
