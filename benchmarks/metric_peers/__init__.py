"""Scripts that run in other tools' environments and measure a job's SAE by those tools' own evaluation.

They import nothing of this project but each other; `job` says what is measured.
"""
