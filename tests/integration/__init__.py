"""A user at the command line, with the real upstream and with a miniature of it."""
