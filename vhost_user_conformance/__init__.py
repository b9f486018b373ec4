"""The conformance suite: does a back-end, or a front-end, keep the rules of vhost-user?

`model` defines cases and verdicts; `back_end.cases` and `front_end.cases` hold the cases, a module
or a folder for each area; `target` selects the peer, and `report` shows the results.
"""
