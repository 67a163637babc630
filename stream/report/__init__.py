"""Pages: one self-contained HTML file each, that can be shown to anybody and needs no network.

A page takes what is to be shown and returns the file's text; it reads nothing and computes no
result. `demo`, `run` and `comparison` are the pages; `parts` and `charts` what they are made of.
"""
