"""A naive model of the machine: lists and scans, no index, no heap, no graph that is kept. What it says is what the rules say.

`table.py` is who holds what, `model.py` what each operation does, `acquiring.py` the longest of them, `waits.py` who waits for
whom, `drawing.py` what is asked, `pair.py` the comparison. Nothing is taken over from the machine but its vocabulary.
"""
