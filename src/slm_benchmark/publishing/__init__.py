"""From runs/ to results/, and every check of what is published."""
