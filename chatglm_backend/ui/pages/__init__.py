"""One module per tab of the page: its layout, then its wiring."""
