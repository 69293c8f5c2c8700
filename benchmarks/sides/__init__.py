"""What `benchmarks/training.py` compares: each module trains on the same pairs in another way, in its own process; and,
in modules named after GRPO, what `benchmarks/reinforcing.py` does (`grpo.py`).

Every `train(folder, …)` reads `folder/policy` and `folder/pairs.json` and returns the losses of its steps and

- `step_seconds`, `step_cpu_seconds`: optimizer steps alone, from the end of the first step to the end of the last;
- `seconds`, `cpu_seconds`: everything behind the imports: loading, tokenization, reference, steps, writing the result.
"""
