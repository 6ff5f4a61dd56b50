"""`python -m snntorch_stbp.cli`."""

from . import main

main(prog_name="snntorch-stbp")
