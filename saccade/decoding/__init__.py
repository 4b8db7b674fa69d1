"""Ways to choose the next tokens; saccade/generate.py is the loop that uses them."""
