"""What the lessons share. A lesson's figures and explorer need four names of it:

    Picture       (style.py)  ends a cell: a figure as a PNG, with its description for those who cannot see it
    Panel         (panel.py)  an explorer: a question, controls, and a picture drawn from their values
    new_figure    (style.py)  an empty figure; never pyplot, whose figures are global
    style         (style.py)  the title, labels and grid that all axes have

``colours.py`` has the colours, and ``models.py`` small models for exercises. ``fast/`` is speed only.
"""
