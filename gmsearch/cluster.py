"""Ray on this machine or a cluster, and how many trainings fit there. What Ray reads from its
environment when it is imported is set here, so this module comes before any other that imports it.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_DEDUP_LOGS="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    TUNE_GLOBAL_CHECKPOINT_S="1e9",
)

import ray  # noqa: E402
from ray._private import ray_constants, services  # noqa: E402

from gmsearch import speedups  # noqa: E402
from gmsearch.errors import SettingsError  # noqa: E402
from gmsearch.experiment import Settings  # noqa: E402

# A signal to the driver's process group, as from a terminal or `timeout`, is for the driver alone,
# which ends Ray when all is written. Where the driver is killed the kernel still kills Ray.
_starting: Any = services
_starting.ConsolePopen = partial(services.ConsolePopen, process_group=0)

WORKER_MEMORY = 1.2e9  # bytes of a worker with torch and timm, beside its share of the data


@dataclass(frozen=True)
class Resources:
    """How many trials run at once, and what each gets."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    @property
    def devices(self) -> float:
        """GPUs of a trial, or 1 for a worker without one: what device-hours are hours of."""
        return self.gpus or 1.0


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray on this machine, or the cluster at `address`. Raises SettingsError."""
    _check_reachable(address)
    # A single-host run listens on 127.0.0.1 only; on a cluster the host's own address is needed.
    ray_constants.ENABLE_RAY_CLUSTER = address is not None
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if address is None else "1"
    try:
        ray.init(
            address=address or "local",  # without a word Ray would follow a stale address file
            include_dashboard=None if address else False,
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            configure_logging=True,
            runtime_env=None if address is None else _environment(),
        )
    except Exception as error:  # Ray raises a plain one where a node does not start in time
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        is_given = address not in (None, "auto")
        hint = "; one that asks for a token needs RAY_AUTH_MODE=token" if is_given else ""
        raise SettingsError(
            f"no Ray cluster at {address or 'this machine'}: {reason}{hint}"
        ) from None
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # A polite kill is a Ctrl-C, on which Tune stops its trials; Ray's own handler would abort.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        ray.shutdown()


def _environment() -> dict[str, Any]:
    """What workers on other nodes take from this process, as those of this machine do."""
    return {"env_vars": {speedups.VARIABLE: ",".join(speedups.switched_off())}}


def _check_reachable(address: str | None) -> None:
    """Raises SettingsError where nobody listens; Ray itself would try for minutes, also where the
    file that `auto` looks into is of a cluster that is gone.
    """
    try:
        place = services.canonicalize_bootstrap_address(address) if address == "auto" else address
        host, _, port = (place or "").rpartition(":")
        if host and port.isdecimal():  # else none, or a URL
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, ValueError) as error:
        raise SettingsError(
            f"no Ray cluster at {address}: {error}; start one with `ray start --head`, or leave "
            "--address out"
        ) from None


def live_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster: CPU, GPU, memory in bytes."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def plan_resources(settings: Settings, nodes: Sequence[Mapping[str, float]]) -> Resources:
    """As many trials at once as GPUs, or else cores, allow; each gets its share of a node's cores.

    Raises SettingsError where so many, or even one, do not fit.
    """
    has_gpus = any(node.get("GPU") for node in nodes)
    gpus = settings.gpus_per_trial if has_gpus else 0.0
    if gpus > 1 and gpus != int(gpus):
        raise SettingsError(f"--gpus-per-trial {gpus:g}; above one it must be a whole number")

    def slots(cpus: float) -> int:
        return _slots(nodes, cpus, gpus)

    workers = settings.workers
    if workers is None:
        memory = sum(node.get("memory", 0) for node in nodes)
        most = slots(0.01) if has_gpus else min(slots(1), int(memory / WORKER_MEMORY))
        workers = max(1, min(most, settings.num_trials))
    shares = [*range(int(max(node.get("CPU", 1) for node in nodes)), 0, -1), 0.5, 0.25, 0.1, 0.01]
    share = next((share for share in shares if slots(share) >= workers), None)
    if share is None:
        raise SettingsError(
            f"--workers {workers}"
            + (f" with --gpus-per-trial {gpus:g}" if gpus else "")
            + f": only {slots(0.01)} trials fit at once"
        )
    return Resources(workers, share, gpus)


def replan(
    settings: Settings, planned: Resources, nodes: Sequence[Mapping[str, float]]
) -> Resources:
    """As many trials at once as fit now, where nodes came or went; each gets what was planned."""
    if settings.workers is not None:
        return planned
    fit = min(_slots(nodes, planned.cpus, planned.gpus), settings.num_trials)
    if not planned.gpus:
        fit = min(fit, int(sum(node.get("memory", 0) for node in nodes) / WORKER_MEMORY))
    return replace(planned, workers=max(1, fit))


def plan_workers(workers: int, nodes: Sequence[Mapping[str, float]]) -> tuple[float, bool]:
    """Cores for each worker of one training, and whether each has a GPU, where there are GPUs.

    Raises SettingsError where so many do not fit.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and workers > gpus:
        raise SettingsError(f"--workers {workers}: there are {gpus} GPUs, one for each worker")
    for cpus in range(int(max(node.get("CPU", 1) for node in nodes)), 0, -1):
        if sum(int(node.get("CPU", 0) // cpus) for node in nodes) >= workers:
            return cpus, bool(gpus)
    cores = sum(int(node.get("CPU", 0)) for node in nodes)
    raise SettingsError(
        f"--workers {workers}: there are {cores} cores, one or more for each worker"
    )


def _slots(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Trials that fit at once where each takes `cpus` cores and its GPUs, all on one node."""
    return sum(
        min(
            int(node.get("CPU", 0) / cpus + 1e-9),
            _gpu_slots(node.get("GPU", 0), gpus) if gpus else 10**6,
        )
        for node in nodes
    )


def _gpu_slots(available: float, gpus: float) -> int:
    """Trials of `gpus` GPUs each on a node: a fraction comes out of a single GPU."""
    return int(available) * int(1 / gpus + 1e-9) if gpus <= 1 else int(available // gpus)
