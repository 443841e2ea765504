"""Faults of workers that no test can bring about from outside: put on PYTHONPATH, as
`sitecustomize`, they strike the trainings of a run by the order in which these begin.

The folder that FAULTS names has a file for each fault that is still to come, in the second epoch
of a training: `crash` kills the worker, each time; `raise` is an error in its code; `hang` stops it
once.
"""

SITE = '''
import importlib.util, os, signal, sys
from pathlib import Path

FAULTS = Path(os.environ["FAULTS"])


def strike(name, epoch):
    """Does to the training in the folder `name` what is its lot."""
    lot = FAULTS / f"lot-{name}"
    if not lot.exists():
        for fault in ("crash", "raise", "hang"):
            if (FAULTS / fault).exists():
                (FAULTS / fault).rename(lot)
                lot.write_text(fault)
                break
        else:
            return
    fault = lot.read_text()
    if epoch == 2 and fault == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if epoch == 2 and fault == "raise":
        [][epoch]
    if epoch == 2 and fault == "hang":
        lot.write_text(f"hung {os.getpid()}")
        os.kill(os.getpid(), signal.SIGSTOP)


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "gmsearch.trial":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            real = module.run_trial

            def run_trial(network, dataset, recipe, folder, **more):
                for curve in real(network, dataset, recipe, folder, **more):
                    strike(folder.name, len(curve))
                    yield curve

            module.run_trial = run_trial

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''
