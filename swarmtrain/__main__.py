"""`python -m swarmtrain`."""

from swarmtrain.cli.app import main

main()
