"""Documents beside a question: files into text with pages, and as much of them as a prompt has room for."""
