"""Scripts that run in other tools' environments and look through a job's texts by those tools' own code.

They import nothing of this project but each other; `job` says what is looked at.
"""
