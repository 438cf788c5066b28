"""Only speed: what lets an explorer answer a move within its limit. A reader may skip this folder.

matplotlib draws the same pictures without it, too slowly for a slider. ``pefteach bench widgets`` measures every
explorer against its limit. Each of the three tricks here is kept because without it moves of the larger explorers take
about twice as long, and without all three about three to four times:

    text_cache.py   renders each text once and copies its pixels afterwards
    axes.py         uses axes again instead of making new ones, and draws ticks as plain lines and texts
"""
