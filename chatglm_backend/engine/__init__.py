"""From a request to a stream of events: the one place where tokens are made.

Knows models and tokenizers through their protocols; knows nothing of threads, queues, pages or files.
"""
