"""Running a published cell again from its recorded inputs, and what that says of it.

``inputs`` names every input that is not the recorded one, before anything is computed; ``cell``
runs the model again; ``verdict`` compares; ``batch`` goes through a release.
"""
