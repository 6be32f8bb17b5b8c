"""Scripts that run in other tools' environments and write SAE files by those tools' own code, with what that
code computes from them. They import nothing of this project but each other."""
