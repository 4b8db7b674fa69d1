"""Puzzles as arrays of small integers: Sudoku, mazes, ARC. NumPy only."""
