"""Arithmetic with one result: the same bits on every processor and in every order."""
