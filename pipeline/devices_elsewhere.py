"""The device of a model that a launcher loads, and of the models of workers on other machines."""

from pipeline.config import RunConfig
from transforms.settings import ModelSettings


def launcher_config(config: RunConfig) -> RunConfig:
    """Return the configuration by which a launcher of workers elsewhere loads the model: on what it has itself.

    Which device computes is no part of a model's fingerprints, which launcher and workers compare.
    """
    return _with_device(config, "auto")


def worker_config(config: RunConfig, *, with_gpu: bool) -> RunConfig:
    """Return the configuration of workers elsewhere.

    Args:
        config: As the user gave it.
        with_gpu: Each worker is paid for with a GPU: one whose driver does not start must not go on without it.
    """
    return _with_device(config, "gpu", only="auto") if with_gpu else config


def _with_device(config: RunConfig, device: str, only: str | None = None) -> RunConfig:
    """Give every model this device; with `only`, every one that has that one."""

    def moved(model: ModelSettings) -> ModelSettings:
        return model if only not in (None, model.device) else model.model_copy(update={"device": device})

    rival = config.challenger
    return config.model_copy(
        update={
            "model": moved(config.model),
            "challenger": rival and rival.model_copy(update={"model": moved(rival.model)}),
        }
    )
