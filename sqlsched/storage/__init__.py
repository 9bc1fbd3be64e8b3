"""The only SQL in the package.

`connection` opens a database and knows its rules, `migrations` makes its tables; then one module
for each table's queries (`schedules`, `runs`, `owners`, `audit`), one for what a running scheduler
does to them (`claims`), and those that only look (`evidence`, `stats`, `chart`, `watching`,
`health`). `backups` takes whole databases and puts them in place. All
are plain functions over a connection, each a whole transaction; `ledger` runs them in a thread for
the engine. Instants are `…_us`, microseconds since 1970, UTC.
"""
