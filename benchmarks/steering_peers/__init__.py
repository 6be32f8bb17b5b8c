"""Scripts that serve a job's steered requests as people do without steerd, each with one tool.

They run in the tools' environments, import nothing of this project but each other, and answer line by line;
`job` says what is served and how.
"""
