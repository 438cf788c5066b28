"""The commands of ``pefteach``, one thin file each; ``cli.py`` lists them."""
