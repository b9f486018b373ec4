"""The test front-end, and the cases for back-ends."""
