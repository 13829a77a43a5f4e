"""Measurements that need more than the project itself: full-size folders, kernels, peers."""
