"""Judges: models that grade written answers, at an endpoint or on this machine."""
