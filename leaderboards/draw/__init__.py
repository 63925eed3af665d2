"""A board, drawn: files, tables and the page."""
