"""`python -m melange_sky` is `melange-sky`."""

from melange_sky.cli import main

main()
