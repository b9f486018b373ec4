"""The test back-end, which serves a front-end under test."""
