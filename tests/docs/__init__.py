"""Tests of the documents: their links, and the commands in them."""
