"""Runs specs in worker processes, one a slot: `slot` is the process, `process` its handle in the parent."""
