"""The program under test, and what both ends of the suite share."""
