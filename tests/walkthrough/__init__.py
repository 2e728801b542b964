"""What the pages tell people to type, typed, in the order in which they stand there.

`nox -s walkthrough`, as root, over what is in dist/.
"""
