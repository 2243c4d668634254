"""`python -m qanat` is the `qanat` command."""

from qanat.cli import main

main()
