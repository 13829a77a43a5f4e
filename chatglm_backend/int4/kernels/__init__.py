"""INT4 products and small operations compiled for the CPU they run on.

No compiler is needed on the user's machine: numba's own LLVM turns :mod:`.emit`'s code into
machine code at start, in well under a second. Importing this package loads nothing heavy.
"""
