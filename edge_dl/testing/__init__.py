"""What the pytest plugin does: a model checked on a target, judged, compared with its baseline, explained.

    subjects.py     what a test names (a bundle, or a .tflite and a reference) -> a bundle with expected answers
    parity.py       the check on one target        latency.py    the time on one target
    results.py      what the fixtures give: true or false, with every reason
    graphs.py       where in the graph a variant starts to differ from its float32 sibling
    conditions.py   --edge-fail "latency.p50 > 1.1x"
    baselines.py    earlier results, one file a machine, and the models that were timed
    pairs.py        a model timed in turns with its baseline's

Importing this package, `conditions` or `baselines` loads neither NumPy nor an interpreter.
"""
