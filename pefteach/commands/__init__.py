"""The commands of ``pefteach``, one thin file each; ``cli.py`` lists them.

``options.py`` has the options that several share, and ``working_copy.py`` the copy of the course that ``lab.py`` opens.
"""
