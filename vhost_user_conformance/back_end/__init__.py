"""The test front-end, which speaks to a back-end under test."""
