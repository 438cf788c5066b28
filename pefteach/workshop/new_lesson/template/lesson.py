# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 0. Template
#
# **TODO: one question that the reader can feel, in a sentence or two. What goes wrong, what costs too much, what is
# surprising?**
#
# TODO: replace every text that begins with TODO, and this advice with it. It says what each part is for, and it is
# about as long as a lesson should be: 800 to 1,500 words. Short sentences and plain words read best. Nothing here is
# run by a reader who knows what you know, so leave out words that make it sound easy.

# %%
import torch
from torch import Tensor
from torch.nn import functional as F

from pefteach.lessons.kit.style import Picture, new_figure
from pefteach.workshop.new_lesson.template.explorer import slope_explorer
from pefteach.workshop.new_lesson.template.figures import draw_line

_ = torch.manual_seed(0)

# %% [markdown]
# ## The idea in a picture
# TODO: one picture that a reader remembers, and two or three sentences that name its parts with the field's own words.
# Bring in the letters that the formulas use later, each with what it stands for. The drawing lies in `figures.py` as a
# function without side effects; it returns the sentence that describes the picture to those who cannot see it. Draw on
# the light paper that `new_figure` gives, with the colours of `pefteach.lessons.kit.style`, so that it can be read on
# a dark page, too, and by people who cannot tell red from green.

# %%
figure = new_figure(6.4, 2.6)
Picture(figure, alt=draw_line(figure, slope=0.5))

# %% [markdown]
# ## Build it
# ### 1. TODO: the first step
# TODO: one idea per cell. Say in a sentence or two what the next few lines do, then let the reader run them. Print the
# shape of everything new. Choose sizes that differ, or a transposed matrix will not show: more inputs than outputs,
# more than one row, a scale that is not one. Give each tensor its shape in a comment beside the maths. Every cell may
# be run twice, so let none depend on what a later one changes.

# %%
weight = torch.randn(3, 5)  # (out, in)
x = torch.randn(2, 5)  # (batch, in)
print("x", tuple(x.shape), " weight", tuple(weight.shape), " y", tuple((x @ weight.T).shape))

# %% [markdown]
# ### 2. TODO: the next step
# TODO: turn the step into a function or a small module that the rest of the lesson uses. Use the names of the
# reference library, so that the reader recognises them there. A test takes every function and class of the lesson and
# compares it with the package, and puts mistakes into it which that comparison must notice: add yours to
# `tests/lessons/test_definitions.py`. A cell has about ten lines, never more than twenty. If it grows longer, it holds
# two ideas.


# %%
def apply(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T  # (batch, in) -> (batch, out)


y = apply(x, weight)
print("y", tuple(y.shape))

# %% [markdown]
# ### 3. TODO: train
# TODO: let the reader see it work. Train on a task that the base does not know yet, for a few seconds; `load_base`,
# `problems` and `fit` in lesson 7 show how. No cell may take longer than 20 seconds, and the whole lesson has to run
# in less than a minute on a laptop without a GPU. Numbers that training decides differ a little between computers. So
# do not type them into the text: print them in the cell, and assert the relation that the text speaks of.
#
# ## Explore
# TODO: one question above the slider, and under it what to look for. The explorer lies in `explorer.py`. Let it
# compute what takes long when it is made, so that a move answers in less than a tenth of a second. After the explorer,
# say in two or three sentences what a reader should have found, and why it is so. A question that the reader answers
# before moving anything is worth more than an explanation afterwards.

# %%
slope_explorer()

# %% [markdown]
# ## Check against the reference
# TODO: compare your numbers with those of the library that everybody uses, and print the largest difference. Import a
# slow library here and not at the top, so that the first cell of the lesson answers at once. Say which version of an
# equation the library follows where papers differ, and what it calls the parts that you have built.

# %%
difference = (y - F.linear(x, weight)).abs().max().item()
print("equal to the reference, <= 1e-6:", difference <= 1e-6)
assert difference <= 1e-6

# %% [markdown]
# ## Claims put to the test
# TODO: take a sentence that people repeat about this technique, and quote it. Then measure. The experiment is small,
# so say what it cannot show, and name the paper that shows it at scale. Whatever is trained is trained with three
# seeds at least, and the spread is printed beside the mean. The verdict is a function of numbers: the cell fails if
# the measurement contradicts what is written below it.
#
# **Claim 1.** "TODO: the sentence, as people say it."

# %%
numbers = weight.numel()
print(f"{numbers} numbers for {x.shape[1]} inputs and {y.shape[1]} outputs")
assert numbers == x.shape[1] * y.shape[1]

# %% [markdown]
# **Verdict: TODO.** One word first: right, wrong, imprecise, outdated. Then the reason in two or three sentences, with
# the condition under which the sentence would be right.
#
# ## Recap
# 1. TODO: five lines, each one thing to remember.
# 2. TODO: the equation in words.
# 3. TODO: what it costs, and what it saves.
# 4. TODO: where it fails.
# 5. TODO: what to try first in practice.
#
# ## Now you
# Open [the paired exercises](exercises/00_template.ipynb).
# TODO: one sentence on what they ask for, and one thing to change in this notebook to see what happens.
#
# ## Sources
# TODO: the papers, by name and year, with their titles in italics · separated by dots. Name here every paper that the
# text mentions, and no paper that you have not read
