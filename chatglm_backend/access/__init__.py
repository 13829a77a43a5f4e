"""Who may use the page and the endpoint: tokens, hosts, limits, headers. Knows no page, no endpoint and no model."""
