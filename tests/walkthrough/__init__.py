"""The commands of the documentation, in the order of each page.

`nox -s walkthrough`, as root, with the artifacts in dist/.
"""
