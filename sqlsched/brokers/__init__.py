"""Brokers: where a run goes. This package imports none of them; each has its own needs.

To add one: copy the file of the broker nearest to yours (`in_process.py` runs tasks itself,
`celery.py` hands them to a queue), subclass `sqlsched.abc.Broker`, and write `kick`. Then add one
line to the table in `tests/conformance/test_brokers.py`, or in `test_queues.py` beside it, from
which the fixture takes its parameters: these suites are the definition of a broker.
"""
