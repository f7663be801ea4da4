"""`python -m polypforge`."""

from polypforge.cli.main import main

main()
