"""From a cell to its record: requests, scores, and what surrounds them."""
