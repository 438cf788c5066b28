"""``python -m pefteach``, which is how ``accelerate launch -m pefteach`` starts a command in several processes."""

from pefteach.commands.cli import main

main()
