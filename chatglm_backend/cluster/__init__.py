"""Several machines behind one page: a front that queues, and on each machine the engine of today.

Nothing outside this room knows of it. Ray is imported in ``on_ray.py`` alone.
"""
