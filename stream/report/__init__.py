"""Pages: self-contained HTML files that need no network.

`run`, `comparison` and `demo` are the pages: pure functions from facts to the text of a file, which
the caller writes. `templates/` holds their layout, `charts` the data of their charts.
"""
