"""Services that follow a run, when they are asked for: Weights & Biases and MLflow, through Ray."""

from importlib.util import find_spec
from typing import Any

from gmsearch.errors import SettingsError
from gmsearch.experiment import Settings

PACKAGES = ("wandb", "mlflow")  # each has a setting of the same name


def check_trackers(settings: Settings) -> None:
    """Raises SettingsError where a service is asked for and its package is not installed."""
    for package in PACKAGES:
        asked = getattr(settings, package)
        if asked is not None and not _is_installed(package):
            raise SettingsError(
                f"--{package} {asked}: the package {package} is not installed; "
                f"pip install {package}"
            )


def _is_installed(package: str) -> bool:
    """The folder `wandb` that a run of theirs leaves looks like a package without a file."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def make_trackers(settings: Settings) -> list[Any]:
    """Ray's callbacks for what is asked for, each ready to use.

    Raises SettingsError with what a service says where it does not let us in.
    """
    trackers: dict[str, Any] = {}
    if settings.wandb is not None:
        from ray.air.integrations.wandb import WandbLoggerCallback

        trackers[f"--wandb {settings.wandb}"] = WandbLoggerCallback(
            project=settings.wandb, group=settings.name, excludes=["began", "away"]
        )
    if settings.mlflow is not None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        trackers[f"--mlflow {settings.mlflow}"] = MLflowLoggerCallback(
            tracking_uri=settings.mlflow, experiment_name=settings.name
        )
    for flag, tracker in trackers.items():
        try:
            tracker.setup()  # Ray does so too, but a run would end there in a traceback
        except Exception as error:  # whatever a foreign package raises
            raise SettingsError(f"{flag}: {error or type(error).__name__}") from None
    return list(trackers.values())
