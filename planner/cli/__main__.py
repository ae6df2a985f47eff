"""`python -m planner.cli`, where the `planner` script is not on the path."""

from planner.cli import main

main()
