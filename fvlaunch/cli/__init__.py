"""The command line: options, help texts, exit codes, shell completion.

Owns how words become one call of a function in `commands`, and how an error becomes a message and an exit code.
May import: commands (inside functions, so that --help is quick); config and runs for completion only.
Must not know: how anything is done.
"""
