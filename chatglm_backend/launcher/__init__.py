"""Gets from a bare Python to the running page: environment, packages, thread plan, start.

Standard library only, since it runs before anything is installed. ``launch.sh`` and ``launch.ps1``
find a Python and hand over to ``start.py``.
"""
