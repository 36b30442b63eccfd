"""Running a published cell again from its recorded inputs, and what that says of it.

``inputs`` names every input that is not the recorded one, before anything is computed; ``cell``
asks the model again; ``verdict`` compares; ``several`` goes through a release.
"""
