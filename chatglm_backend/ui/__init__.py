"""The page: what it says, how it looks, and what happens when people press its buttons."""
