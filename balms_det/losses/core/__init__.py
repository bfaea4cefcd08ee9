"""The base of all box losses, and what several of them share."""
