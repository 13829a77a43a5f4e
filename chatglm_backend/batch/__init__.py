"""Files of requests, answered line by line into a file that is whole at any moment. Knows no terminal and no page."""
