"""The `holdfast` command (extra: `cli`; the commands that start nodes need `server`).

Rule: thin. What a command decides lives in the library, the server or in a small module here that takes its clock and
its processes as parameters (`supervisor`, `child`); a command parses, calls, prints, and picks an exit code.
"""
