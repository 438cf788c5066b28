"""The colours of all figures, which readers who cannot tell red from green can tell apart."""

# Okabe & Ito's colours, in the order of use. They differ in brightness too.
BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)
PAPER, INK = "#FCFCFA", "#222222"  # a light sheet of its own, so that dark mode does not swallow the ink
