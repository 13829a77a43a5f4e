"""Changes every file format that the program reads, and sees that it is refused in a sentence or read right.

    python -m tests.fuzz                      # every format, 200 inputs each
    python -m tests.fuzz -n 10000 bin kv      # some of them, more

Outside the ordinary suite: what it finds is mended with an ordinary test.
"""
