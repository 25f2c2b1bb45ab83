"""Run by the Python of a runtime, in a process of its own: what its XNNPACK changes in the answers of a .tflite.

    python delegate_difference.py RUNTIME_MODULE FILE ...

Prints {FILE: {signature: largest difference}}; NaN counts as infinite. Every signature is called twice, in turns.
"""

import importlib
import json
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")


def answers(module, path, resolver):
    interpreter = module.Interpreter(path, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    runners = {key: interpreter.get_signature_runner(key) for key in interpreter.get_signature_list()}
    found = {}
    for _ in range(2):
        for key, run in runners.items():
            x = np.random.default_rng(0).standard_normal(next(iter(run.get_input_details().values()))["shape"])
            found.setdefault(key, []).append(np.array(run(x=x.astype("float32"))["y"]))
    return found


def main(name, paths):
    module = importlib.import_module(name)
    kinds = module.OpResolverType
    result = {}
    for path in paths:
        plain = answers(module, path, kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        delegated = answers(module, path, kinds.AUTO)
        result[path] = {
            key: float(np.nan_to_num(np.abs(np.array(plain[key]) - np.array(delegated[key])), nan=np.inf).max())
            for key in plain
        }
    print(json.dumps(result))


main(sys.argv[1], sys.argv[2:])
