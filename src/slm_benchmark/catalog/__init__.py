"""What can be measured, from models/, config/ and custom/, and the choices of one run."""
