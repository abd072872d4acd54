"""Configuration of a run: flat JSON files and command-line overrides, validated before anything is loaded."""

from songgen.config.adapter_arguments import AdapterArguments, LoraArguments
from songgen.config.data_arguments import DataArguments, DatasetSource
from songgen.config.flow_arguments import FlowArguments
from songgen.config.loading import load_run_config, read_config_file
from songgen.config.model_arguments import ModelArguments
from songgen.config.run_config import RunConfig
from songgen.config.training_arguments import TrainingArguments

__all__ = [
    "AdapterArguments",
    "DataArguments",
    "DatasetSource",
    "FlowArguments",
    "LoraArguments",
    "ModelArguments",
    "RunConfig",
    "TrainingArguments",
    "load_run_config",
    "read_config_file",
]
