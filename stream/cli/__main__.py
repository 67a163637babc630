"""`python -m stream.cli` is `eddy`."""

from stream.cli import main

main()
