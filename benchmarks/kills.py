"""One run that is killed at random moments and resumed each time, beside one that is left alone.

    python benchmarks/kills.py [--kills 20] [--trials 14] [--epochs 4] [--seed 0] [--data SRC]
                               [--sampler gated] [--early-stop gated]

Each kill is `kill -9` of the driver, of a worker, of Ray's node, or of all at once, some seconds
after the run began or went on. One worker trains at a time, so that decisions have an order. In the
end both runs must have the same trials with the same top1 in every epoch; exit code 1 where they
have not. Takes minutes; Linux, and no GPU, whose sums differ from run to run.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPACE = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
VICTIMS = ("driver", "worker", "node", "all")
PATIENCE = 120  # seconds for a session whose Ray was killed to end by itself
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 20), ("trials", 14), ("epochs", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("data", "bands"), ("sampler", "gated"), ("early-stop", "gated")):
        parser.add_argument(f"--{name}", default=default)
    said = parser.parse_args()
    rng = random.Random(said.seed)
    with tempfile.TemporaryDirectory(prefix="gmsearch-kills-") as scratch:
        words = f"--space {SPACE} --budget 30M --trials {said.trials} --epochs {said.epochs}"
        words += f" --sampler {said.sampler} --early-stop {said.early_stop} --workers 1"
        words += " --resolution 32"
        words += f" --runs-dir {scratch} --data {said.data}"
        began = time.monotonic()
        alone = start("run", *words.split(), "--name", "alone")
        while alone.poll() is None and not epochs_of(Path(scratch) / "alone"):
            time.sleep(0.1)
        start_up = time.monotonic() - began
        if alone.wait():
            print("the run that was left alone did not finish")
            return 1
        span = time.monotonic() - began
        print(f"left alone: {span:.0f} s, {start_up:.0f} s to its first epoch", flush=True)

        killed = Path(scratch) / "killed"

        def come(process: subprocess.Popen, least: int = 0) -> None:
            """Waits for the next moment, such that work is left for all kills that are to come:
            some time in the start, or within the epoch after a few more.
            """
            before, left = epochs_of(killed), said.kills - sum(kills.values())
            most = 2 * (said.trials * said.epochs - before) // (left + 1)
            more = max(least, rng.randint(0, most))
            deadline = time.monotonic() + (PATIENCE if more else rng.uniform(0.1, start_up))
            while process.poll() is None and time.monotonic() < deadline:
                if more and epochs_of(killed) >= before + more:
                    time.sleep(rng.uniform(0, 0.5))
                    return
                time.sleep(0.02)

        begin = ("run", *words.split(), "--name", "killed")
        kills, failures = dict.fromkeys(VICTIMS, 0), 0
        while sum(kills.values()) < said.kills:
            before, began = epochs_of(killed), time.monotonic()
            process = start(*begin)
            come(process)
            if process.poll() == 0:  # all is trained: there is nothing left to kill
                break
            victim = VICTIMS[sum(kills.values()) % len(VICTIMS)]
            seconds = time.monotonic() - began
            if not strike(process, victim):  # there is none yet: the driver is there always
                victim = "driver"
                strike(process, victim)
            kills[victim] += 1
            if victim == "worker":  # the run goes on by itself, and then the session is ended
                come(process, least=1)
                strike(process, "driver")
            if wait(process, PATIENCE) is None:
                failures += 1
            strike(process, "all")  # what of Ray outlives its driver for some seconds
            print(
                f"{sum(kills.values()):3}  {victim:6} after {seconds:5.1f} s; "
                f"epochs {before} -> {epochs_of(killed)}",
                flush=True,
            )
        final = start(*begin)
        code = final.wait()
        one, other = curves_of(Path(scratch) / "alone"), curves_of(killed)
        equal = one == other
        print(f"kills: {', '.join(f'{count} {name}' for name, count in kills.items())}")
        print(f"sessions that had to be ended by force: {failures}; the last one's code: {code}")
        print(f"trials: {len(one)} alone, {len(other)} killed; the same curves: {equal}")
        return 0 if equal and not code and not failures else 1


def start(*words: str) -> subprocess.Popen:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    line = [sys.executable, "-m", "gmsearch", *words]
    return subprocess.Popen(line, **quiet, env=ENVIRONMENT, start_new_session=True)


def wait(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, or None where it still runs after so many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def strike(process: subprocess.Popen, victim: str) -> bool:
    """Kills what is called so of a session; whether there was any."""
    listing = subprocess.run(["ps", "-ww", "-eo", "pid,sess,args"], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()[1:]]
    ours = [(int(pid), words) for pid, session, words in rows if int(session) == process.pid]
    signs = {"driver": "-m gmsearch", "worker": "ray::ImplicitFunc", "node": "raylet/raylet --"}
    sign = signs.get(victim, "")
    found = [pid for pid, words in ours if sign in words]
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it went with another
            continue
    return bool(found)


def curves_of(run: Path) -> dict[str, list[float]]:
    """The top1 of every epoch, by trial; only what the study calls complete has all of them."""
    return {
        file.parent.name: [json.loads(line)["top1"] for line in file.read_text().splitlines()]
        for file in sorted(run.glob("trials/*/metrics.jsonl"))
    }


def epochs_of(run: Path) -> int:
    return sum(map(len, curves_of(run).values()))


if __name__ == "__main__":
    sys.exit(main())
