"""Explorers: a question, sliders, and a picture that answers. One file each."""
