"""What one GPU does, in at most eight minutes: `python -m benchmarks.gpu`, or `make gpu`.

Each module with a function `run` is a part: a process of its own with a time limit, so that a part that fails reports
its error and the others go on. `__main__.py` names them all. A part's function takes `tiny` (small enough for a CPU, as
the tests run it) and `ceiling` (measured FLOP/s, None if unknown) and returns `{"rows": […]}` as `record.py` has them.

It needs torch, transformers, accelerate, pyarrow and numpy, and peft and trl for the parts that bear their names;
nothing is downloaded. Models are made on the device from random weights, of the sizes that the named models have.
"""
