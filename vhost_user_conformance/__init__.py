"""The conformance suite: does a back-end, or a front-end, keep the rules of vhost-user?

`case` says what a case is, `back_end` and `front_end` hold the cases, a file for each area.
`runner` runs them against a peer, each on a connection of its own.
"""
