"""What whole volumes cost, and whether their windows can be seen in the answer."""
